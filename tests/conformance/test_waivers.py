"""A waiver says what, why and since when, or it is refused."""

import dataclasses
import datetime
import inspect
from pathlib import Path

import pytest
from fake_chip.chip import Chip

from glm5_hal import registry
from glm5_hal.backends.torch_triton.backend import TorchTritonBackend, _mixed
from glm5_hal.conformance.case import Result, Status
from glm5_hal.conformance.errors import WaiverError
from glm5_hal.conformance.judge import waive
from glm5_hal.conformance.waivers import Waiver, Waivers

VENDORS = (
    *("ascend", "cambricon", "cuda", "enflame"),
    *("hygon", "kunlun", "metax", "moore_threads"),
)
TODAY = datetime.date(2026, 3, 1)
WHOLE = b"- {case: 'TOPK-1/*', reason: slow adder, date: 2026-02-11}\n"


def test_a_waiver_speaks_of_cases() -> None:
    waivers = Waivers.parse(WHOLE)
    (waiver,) = waivers.entries
    assert waiver == Waiver("TOPK-1/*", "slow adder", datetime.date(2026, 2, 11))
    assert str(waiver) == "slow adder (waived 2026-02-11)"
    assert waivers.of("TOPK-1/parity/T5/bf16", TODAY) is waiver
    assert waivers.of("TOPK-10/parity/T5/bf16", TODAY) is None
    assert waivers.content == WHOLE


def test_an_id_with_brackets_matches_itself() -> None:
    assert Waiver("A-1/x[0]", "r", datetime.date(2026, 1, 1)).matches("A-1/x[0]")


def test_the_first_waiver_counts() -> None:
    waivers = Waivers.parse(WHOLE + b"- {case: '*', reason: later, date: 2026-02-12}\n")
    assert str(waivers.of("TOPK-1/a", TODAY)) == "slow adder (waived 2026-02-11)"
    assert waivers.idle(["LINEAR-1/a"]) == ("TOPK-1/*",)


def test_they_lie_beside_the_backend() -> None:
    assert [waiver.issue for waiver in Waivers.beside(Chip).entries] == [
        "https://example.com/17",
        "",
    ]


def test_a_waiver_may_expire() -> None:
    content = b"- {case: 'TOPK-1/*', reason: adder, date: 2026-02-11, expires: 2026-03-01}\n"
    waivers = Waivers.parse(content)
    (waiver,) = waivers.entries
    assert str(waiver) == "adder (waived 2026-02-11 until 2026-03-01)"
    assert waiver.to_dict()["expires"] == "2026-03-01"
    after = TODAY + datetime.timedelta(days=1)
    assert waivers.of("TOPK-1/a", TODAY) is waiver
    assert waivers.expired("TOPK-1/a", TODAY) is None
    assert waivers.of("TOPK-1/a", after) is None
    assert waivers.expired("TOPK-1/a", after) is waiver
    renewed = Waivers.parse(content + b"- {case: '*', reason: again, date: 2026-03-02}\n")
    assert str(renewed.of("TOPK-1/a", after)) == "again (waived 2026-03-02)"
    assert renewed.expired("TOPK-1/a", after) is None


def test_what_an_expired_waiver_covered_fails_and_says_so() -> None:
    waivers = Waivers.parse(
        b"- {case: 'TOPK-1/*', reason: adder, date: 2026-02-11, expires: 2026-02-28}\n"
    )
    failed = Result("TOPK-1/a", "TOPK-1", "topk", "function", "parity", Status.FAIL, 0.0)
    assert waive(failed, waivers, TODAY).status is Status.FAIL
    assert waive(failed, waivers, TODAY).hint == "its waiver expired on 2026-02-28: adder"
    passed = dataclasses.replace(failed, status=Status.PASS)
    assert waive(passed, waivers, TODAY) is passed
    before = datetime.date(2026, 2, 28)
    assert waive(failed, waivers, before).status is Status.EXPECTED_FAIL
    assert "remove it" in waive(passed, waivers, before).hint


@pytest.mark.parametrize("name", VENDORS)
def test_every_vendor_states_its_waivers(name: str) -> None:
    backend = registry.load(name)
    assert issubclass(backend, TorchTritonBackend)
    folder = Path(inspect.getfile(backend)).parent
    # the class that runs is made of the chip's and of the ops of a profile
    mixed = _mixed(backend, type("Ops", (), {}))
    assert Waivers.beside(mixed).content == (folder / "waivers.yaml").read_bytes()
    assert Waivers.beside(mixed).entries == ()


@pytest.mark.parametrize("content", [b"", b"[]\n", b"# none\n"])
def test_no_waivers(content: bytes) -> None:
    assert Waivers.parse(content).entries == ()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("case: a", "expected a list of waivers, found dict"),
        ("- a", "entry 1: expected case, reason, date, found str"),
        ("- {case: a, date: 2026-02-11}", "entry 1: no reason"),
        ("- {case: a, reason: ' ', date: 2026-02-11}", "entry 1: no reason"),
        ("- {case: a, reason: b}", "entry 1: no date"),
        ("- {reason: b, date: 2026-02-11}", "entry 1: no case"),
        ("- {case: a, reason: b, date: 11.2.2026}", "is not of the form 2026-02-11"),
        ("- {case: a, reason: b, date: 2026}", "is not of the form 2026-02-11"),
        ("- {case: a, reason: b, date: 2026-02-11 10:00:00}", "is not of the form"),
        ("- {case: a, reason: b, date: 2026-02-11, until: x}", "unknown until; known: case"),
        ("- {case: a, reason: b, date: 2026-02-11, expires: soon}", "expires 'soon' is not of"),
        ("- {case: a, reason: b, date: 2026-02-11, expires: }", "expires None is not of"),
        ("- {case: a, reason: b, date: 2026-02-11, expires: 2026-02-10}", "before it was found"),
        ("- {case: a, reason: 5, date: 2026-02-11}", "reason is int, expected text"),
        ("- {case: a, reason: b, date: 2026-02-11, issue: 5}", "issue is int, expected text"),
        ("- {case: a, reason: b, date: 2026-02-11}\n" * 2, "waived twice: a"),
        ("- {case: a", "no YAML"),
    ],
)
def test_anything_else_is_refused(content: str, problem: str) -> None:
    with pytest.raises(WaiverError, match=r"^chip/waivers\.yaml") as refused:
        Waivers.parse(content.encode(), "chip/waivers.yaml")
    assert problem in str(refused.value)
