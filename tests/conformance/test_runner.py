"""A run survives whatever a case does, and resumes whatever ends it."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import fake_cases
import pytest
import torch
from fake_chip.chip import Chip, resolve
from fake_runs import observe_nothing, run, source

from glm5_hal import Numerics, Runtime, UnknownBackend
from glm5_hal.conformance import judge as judging
from glm5_hal.conformance import records
from glm5_hal.conformance.case import Case, Result, Status
from glm5_hal.conformance.errors import AskedError, UnusableError
from glm5_hal.conformance.mustpass import MustPass
from glm5_hal.conformance.pool import Pool, death
from glm5_hal.conformance.runner import Outcome, Request, execute, prepare
from glm5_hal.conformance.selection import Selection
from glm5_hal.conformance.sources import Source
from glm5_hal.conformance.verdict import Shown, problems

# --- one case in this process ---


def judge(check: judging.Case | object, op: str = "topk") -> Result:
    plan, backend = resolve(None, None)
    case = fake_cases.case("TOPK-1/parity/a", check, op=op)  # type: ignore[arg-type]
    return judging.judge(case, Runtime(plan, backend()))


def test_evidence_becomes_a_pass() -> None:
    result = judge(fake_cases.passes)
    assert result.status is Status.PASS
    assert (result.digests, result.worst, result.ulps) == (
        {"output0": "ab" * 32},
        0.5,
        {0: 3, 1: 2},
    )


def test_a_failure_keeps_everything_it_knows() -> None:
    result = judge(fake_cases.fails)
    assert result.status is Status.FAIL
    assert result.change == "row 1 alone"
    assert result.hint == "look at the tail"
    difference = records.difference_of(result)
    assert difference is not None
    assert difference.index == (1, 1)
    assert difference.differing == 2
    assert result.reproduce == (
        "GLM5_HAL_BACKEND=chip glm5-hal conformance run --case 'TOPK-1/parity/a'"
    )


def test_an_exception_is_a_failure_with_its_last_frame() -> None:
    result = judge(fake_cases.raises)
    assert result.status is Status.FAIL
    assert result.message.startswith("ValueError: no such tile (raised in fake_cases.raises, line")
    assert judge(fake_cases.exits).message.startswith("SystemExit: 4 ")


@pytest.mark.parametrize(
    ("missing", "op", "status"),
    [
        ("mla_expanded", "mla_expanded", Status.UNSUPPORTED),
        ("mla_expanded", "mla", Status.FAIL),  # declared, but another op was asked
        ("linear", "linear", Status.FAIL),  # a primitive
    ],
)
def test_unsupported_needs_a_declaration(missing: str, op: str, status: Status) -> None:
    result = judge(fake_cases.lacks(missing), op=op)
    assert result.status is status
    assert ("no such unit" in result.message) is (status is Status.UNSUPPORTED)


def test_an_op_declared_unsupported_must_not_run() -> None:
    result = judge(fake_cases.passes, op="mla_expanded")
    assert result.status is Status.FAIL
    assert "declared unsupported (no such unit), but runs" in result.message


def test_a_message_can_be_printed_and_ends() -> None:
    def check(runtime: Runtime) -> NoReturn:
        raise ValueError("\ud800" + 10_000 * "x")

    message = judge(check).message
    message.encode()
    assert len(message) < judging.LONGEST + 100


@pytest.mark.parametrize("check", [fake_cases.returns_nothing, fake_cases.measures_nan])
def test_evidence_must_be_evidence(check: object) -> None:
    assert judge(check).status is Status.FAIL


def test_reproduce_names_index_and_profile() -> None:
    plan, _ = resolve("chip:2", None)
    case = fake_cases.case("A-1/b/it's", fake_cases.passes)
    assert judging.reproduce(case, replace(plan, numerics=Numerics.EXACT)) == (
        "GLM5_HAL_BACKEND=chip:2 glm5-hal conformance run --numerics exact "
        """--case 'A-1/b/it'"'"'s'"""
    )


# --- a run in worker processes ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runner")


@pytest.fixture(scope="module")
def bad(folder: Path) -> Outcome:
    """Two workers through every way not to pass."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(fake_cases.CHILD, str(folder / "child"))
        request = Request(source=source(fake_cases.bad, folder / "lists"), workers=2)
        return run(request, folder / "bad")


def by_end(outcome: Outcome) -> dict[str, Result]:
    return {result.id.removeprefix("TOPK-1/"): result for result in outcome.results}


def test_every_case_has_its_outcome(bad: Outcome) -> None:
    assert {name: result.status.value for name, result in by_end(bad).items()} == {
        "parity/passes": "PASS",
        "parity/fails": "FAIL",
        "parity/segfaults": "CRASH",
        "parity/hangs": "TIMEOUT",
        "parity/is-killed": "CRASH",
        "parity/raises": "FAIL",
        "parity/exits": "FAIL",
        "waived/passes": "FAIL",
        "waived/fails": "EXPECTED_FAIL",
        "waived/raises": "EXPECTED_FAIL",
        "parity/last": "PASS",
    }


def test_a_dead_worker_says_how_it_died(bad: Outcome) -> None:
    found = by_end(bad)
    segfault = found["parity/segfaults"].message
    assert segfault.startswith("the worker process died (SIGSEGV); it printed:\n")
    assert "about to read address 0" in segfault
    assert "in segfaults" in segfault  # the stack, by faulthandler
    assert "SIGKILL: kill -9, or out of memory" in found["parity/is-killed"].message
    assert "in hangs" in found["parity/hangs"].message
    assert found["parity/hangs"].message.startswith("not finished after 1 s")


@pytest.mark.parametrize(
    ("code", "said"),
    [(7, "exit code 7"), (-9, "SIGKILL: kill -9, or out of memory"), (-200, "signal 200")],
)
def test_exit_codes_in_words(code: int, said: str) -> None:
    assert death(code) == said


def test_what_a_hanging_case_started_is_gone(bad: Outcome, folder: Path) -> None:
    child = Path("/proc") / (folder / "child").read_text()
    # gone, or a zombie that waits for whoever inherited it
    assert not child.exists() or "State:\tZ" in (child / "status").read_text()


def test_waivers_turn_failures_and_passes_around(bad: Outcome) -> None:
    found = by_end(bad)
    waived = "the adder rounds to odd (waived 2026-02-11, https://example.com/17)"
    assert found["waived/fails"].message.startswith(f"{waived}; found: other bytes")
    assert found["waived/passes"].message == f"passes, but is waived: {waived}"
    assert bad.job.idle_waivers == ("NOTHING/*",)


def test_the_journal_holds_every_result_once(bad: Outcome, folder: Path) -> None:
    found = records.parse_all((folder / "bad" / "results.jsonl").read_bytes())
    assert found == {result.id: result for result in bad.results}


def test_the_order_is_the_catalogues(bad: Outcome) -> None:
    assert [result.id for result in bad.results] == list(fake_cases.bad())


def test_problems_name_every_kind(bad: Outcome) -> None:
    assert bad.problems == ["4 cases: FAIL", "2 cases: CRASH", "1 cases: TIMEOUT"]
    assert bad.shown.none_because[:3] == tuple(bad.problems)


@pytest.fixture(scope="module")
def good(folder: Path) -> Outcome:
    return run(Request(source=source(fake_cases.good, folder / "good-lists")), folder / "good")


def test_levels_that_are_not_claimed_are_not_run(good: Outcome) -> None:
    found = {result.id: result for result in good.results}
    assert found["RUN-6/repeat/topk"].status is Status.NOT_RUN
    assert found["RUN-6/repeat/topk"].message == "not claimed by backend chip"
    assert found["RUN-1/repeat/topk"].status is Status.PASS  # mandatory, claimed or not
    assert found["MLA-1/parity/a"].status is Status.UNSUPPORTED
    assert good.problems == []
    assert good.machine.device == "cpu"


def test_a_complete_run_is_not_repeated(good: Outcome, folder: Path) -> None:
    again = run(Request(source=good.job.source), folder / "good")
    assert again.results == good.results
    assert again.resumed == sum(r.status is not Status.NOT_RUN for r in good.results)


def test_another_run_is_not_resumed(good: Outcome, folder: Path) -> None:
    with pytest.raises(AskedError, match=r"differs in: selection, must-pass list\."):
        run(Request(source=good.job.source, quick=True), folder / "good")


def test_a_foreign_directory_is_left_alone(good: Outcome, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("do not lose this")
    with pytest.raises(AskedError, match="not empty and holds no run"):
        execute(good.job, tmp_path, observe_nothing)


def test_a_worker_restores_its_threads(tmp_path: Path, good: Outcome) -> None:
    case = fake_cases.case("TOPK-1/parity/threads", fake_cases.sets_threads)
    assert prepare(Request(source=good.job.source, workers=1)).threads == torch.get_num_threads()
    assert judge(case.check).status is Status.PASS
    torch.set_num_threads(good.job.threads)


def test_a_worker_that_cannot_start_ends_the_run(good: Outcome) -> None:
    setup = replace(good.job.setup, source=Source("no_such_module:cases"))
    with (
        Pool(setup, good.job.plan, 1) as pool,
        pytest.raises(UnusableError, match="a worker cannot open the backend: "),
    ):
        list(pool.run(fake_cases.good().values()))


def test_a_worker_must_decide_on_the_same_plan(good: Outcome) -> None:
    plan = replace(good.job.plan, versions={"chip": "another driver"})
    with Pool(good.job.setup, plan, 1) as pool, pytest.raises(UnusableError, match="decided on"):
        list(pool.run(fake_cases.good().values()))


# --- the whole run is killed ---

_SCRIPT = """
import sys
from pathlib import Path
import fake_cases
from fake_runs import run, source
from glm5_hal.conformance.runner import Request

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    run(Request(source=source(fake_cases.slow, folder / "lists")), folder / "out")
"""


def test_a_killed_run_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    monkeypatch.setenv(fake_cases.LOG, str(log))
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": here, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=environment)
    journal = out / "results.jsonl"
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = set(records.parse_all(journal.read_bytes()[: journal.read_bytes().rfind(b"\n") + 1]))
    with journal.open("ab") as file:
        file.write(b'{"id":"TOPK-1/par')  # as a kill in the middle of a write leaves it

    outcome = run(Request(source=source(fake_cases.slow, tmp_path / "lists")), out)

    assert outcome.problems == []
    assert outcome.resumed == len(finished)
    assert [result.id for result in outcome.results] == list(fake_cases.slow())
    ran = log.read_text().split()
    counts = {f"TOPK-1/parity/{name}": ran.count(name) for name in ran}
    assert set(counts) == set(fake_cases.slow())
    assert all(counts[name] == 1 for name in finished)


def test_two_runs_do_not_share_a_directory(good: Outcome, folder: Path) -> None:
    with (
        records.Journal(folder / "good" / "results.jsonl"),
        pytest.raises(AskedError, match="another run is writing"),
    ):
        execute(good.job, folder / "good", observe_nothing)


# --- selections, lists, verdicts ---


def test_selection_narrows() -> None:
    cases = fake_cases.good()
    assert list(Selection(quick=True).of(cases)) == ["TOPK-1/parity/a"]
    assert list(Selection(ops=("linear",)).of(cases)) == ["LINEAR-1/parity/a"]
    assert "LINEAR-1/parity/a" not in Selection(ops=("-linear",)).of(cases)
    assert list(Selection(ops=("topk", "-linear")).of(cases)) == list(
        Selection(ops=("topk",)).of(cases)
    )
    assert list(Selection(case="TOPK-1/parity/b").of(cases)) == ["TOPK-1/parity/b"]
    repeated = Selection(aspects=("run-to-run",)).of(cases)
    assert repeated
    assert {case.aspect for case in repeated.values()} == {"run-to-run"}
    assert Selection(aspects=("run-to-run",)).partial
    assert Selection(profile=Numerics.EXACT).of(cases) == {}


def test_what_does_not_exist_is_said() -> None:
    cases = fake_cases.good()
    with pytest.raises(AskedError, match="no op nope; ops with cases: linear, mla_expanded, topk"):
        Selection(ops=("nope",)).of(cases)
    with pytest.raises(AskedError, match="no aspect nope; there are: "):
        Selection(aspects=("nope",)).of(cases)
    with pytest.raises(AskedError, match="no op nope"):
        Selection(ops=("-nope",)).of(cases)
    with pytest.raises(AskedError, match="close: TOPK-1/parity/b, TOPK-1/parity/a"):
        Selection(case="TOPK-1/parity/bb").of(cases)


def test_a_case_of_another_profile_says_so() -> None:
    cases = fake_cases.two_profiles()
    with pytest.raises(AskedError, match=r"is of the exact profile: --numerics exact"):
        Selection(case="exact/TOPK-1/parity/a").of(cases)
    chosen = Selection(profile=Numerics.EXACT, quick=True).of(cases)
    assert list(chosen) == ["exact/TOPK-1/parity/a"]


def test_requests_that_cannot_run(good: Outcome) -> None:
    with pytest.raises(UnusableError, match="no case is selected"):
        prepare(Request(source=good.job.source, quick=True, ops=("linear",)))
    with pytest.raises(UnknownBackend):
        prepare(Request("nope", source=good.job.source))
    with pytest.raises(AskedError, match="0 workers"):
        prepare(Request(source=good.job.source, workers=0))


def test_an_accelerator_gets_one_worker(good: Outcome) -> None:
    job = prepare(Request(source=good.job.source))
    assert (job.workers, job.threads) == (1, torch.get_num_threads())
    assert (prepare(Request(source=good.job.source, workers=2)).workers) == 2


def results_of(*cases: Case) -> list[Result]:
    plan, _ = resolve(None, None)
    return [judging.outcome(case, plan, Status.PASS, 0.1, "") for case in cases]


def test_the_must_pass_list_decides() -> None:
    results = results_of(*fake_cases.good().values())
    frozen = MustPass.of("fast-full", [*fake_cases.good(), "TOPK-9/parity/a"])
    (problem,) = problems(results, frozen, partial=False)
    assert problem == "1 cases of the must-pass list fast-full are missing: TOPK-9/parity/a"
    (problem,) = problems(results, MustPass.of("fast-full", list(fake_cases.good())[1:]), partial=0)
    assert problem == "1 cases are not in the must-pass list fast-full: TOPK-1/parity/a"
    assert problems(results, frozen, partial=True) == []
    assert "no case ran" in problems([], frozen, partial=True)


@pytest.mark.parametrize("content", [b"b\na\n", b"a\na\n", b"a", b"a\n\nb\n"])
def test_a_list_is_sorted_and_distinct(content: bytes) -> None:
    with pytest.raises(Exception, match="not a sorted list"):
        MustPass.parse("fast-full", content)


def test_an_expected_failure_is_not_shown(good: Outcome) -> None:
    level = Chip.capabilities.claims[Numerics.FAST]
    assert {item.value for item in level} == {"batch-invariant"}
    results = [
        replace(r, status=Status.EXPECTED_FAIL) if r.id == "TOPK-5/invariance/a" else r
        for r in good.results
    ]
    shown = Shown.of(results, good.job.must_pass, partial=False, substituted=(), dirty=False)
    assert shown.levels == {"run-to-run": ("topk",), "batch-invariant": ()}
    assert shown.waived == {"batch-invariant": ("topk",)}


def test_substitutes_and_dirt_show_nothing(good: Outcome) -> None:
    shown = Shown.of(
        good.results, good.job.must_pass, partial=False, substituted=("linear",), dirty=True
    )
    assert shown.levels == {}
    assert len(shown.none_because) == 2
