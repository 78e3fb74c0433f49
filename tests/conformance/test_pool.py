"""Cases that share what is costly to make go to one worker, and keep no other from working."""

from collections.abc import Callable, Mapping
from pathlib import Path

import fake_cases
import pytest
from fake_runs import run, source

from glm5_hal.conformance.case import Case, Status
from glm5_hal.conformance.runner import Outcome, Request

Begun = dict[str, str]
"""The process of each case, in the order in which they began."""
Play = Callable[[Callable[[], Mapping[str, Case]]], tuple[Outcome, Begun]]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Run a catalogue with two workers."""

    def played(catalogue: Callable[[], Mapping[str, Case]]) -> tuple[Outcome, Begun]:
        log = tmp_path / "log"
        monkeypatch.setenv(fake_cases.LOG, str(log))
        outcome = run(Request(source=source(catalogue, tmp_path), workers=2), tmp_path / "out")
        return outcome, dict(line.split() for line in log.read_text().splitlines())

    return played


def statuses(outcome: Outcome) -> dict[str, Status]:
    return {result.id.rpartition("/")[2]: result.status for result in outcome.results}


def test_cases_that_share_go_to_one_worker(play: Play) -> None:
    outcome, begun = play(fake_cases.shared)
    assert set(statuses(outcome).values()) == {Status.PASS}
    assert begun["shared-1"] == begun["shared-2"] != begun["free"]
    assert list(begun)[-2:] == ["free", "shared-2"]
    assert [result.id for result in outcome.results] == list(fake_cases.shared())


def test_a_worker_without_other_work_takes_them_too(play: Play) -> None:
    outcome, begun = play(fake_cases.shared_alone)
    assert set(statuses(outcome).values()) == {Status.PASS}
    assert begun["shared-1"] != begun["shared-2"]


def test_a_dead_worker_keeps_nothing(play: Play) -> None:
    outcome, begun = play(fake_cases.shared_by_the_dead)
    found = statuses(outcome)
    assert found.pop("shared-1") is Status.CRASH
    assert set(found.values()) == {Status.PASS}
    assert len({begun[name] for name in ("one", "two", "shared-2")}) == 3
    assert begun["shared-2"] == begun["shared-3"]
    order = list(begun)
    assert order.index("shared-2") < order.index("shared-3") < order.index("free-2")
