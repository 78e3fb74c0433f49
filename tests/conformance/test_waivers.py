"""A waiver says what, why and since when, or it is refused."""

import datetime

import pytest
from fake_chip.chip import Chip

from glm5_hal.conformance.errors import WaiverError
from glm5_hal.conformance.waivers import Waiver, Waivers

WHOLE = b"- {case: 'TOPK-1/*', reason: slow adder, date: 2026-02-11}\n"


def test_a_waiver_speaks_of_cases() -> None:
    waivers = Waivers.parse(WHOLE)
    (waiver,) = waivers.entries
    assert waiver == Waiver("TOPK-1/*", "slow adder", datetime.date(2026, 2, 11))
    assert str(waiver) == "slow adder (waived 2026-02-11)"
    assert waivers.of("TOPK-1/parity/T5/bf16") is waiver
    assert waivers.of("TOPK-10/parity/T5/bf16") is None
    assert waivers.content == WHOLE


def test_an_id_with_brackets_matches_itself() -> None:
    assert Waiver("A-1/x[0]", "r", datetime.date(2026, 1, 1)).matches("A-1/x[0]")


def test_the_first_waiver_counts() -> None:
    waivers = Waivers.parse(WHOLE + b"- {case: '*', reason: later, date: 2026-02-12}\n")
    assert str(waivers.of("TOPK-1/a")) == "slow adder (waived 2026-02-11)"
    assert waivers.idle(["LINEAR-1/a"]) == ("TOPK-1/*",)


def test_they_lie_beside_the_backend() -> None:
    assert [waiver.issue for waiver in Waivers.beside(Chip).entries] == [
        "https://example.com/17",
        "",
    ]


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
