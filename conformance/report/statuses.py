"""How a status appears, and what a tally of statuses comes to."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from glm5_hal.conformance.case import Status
from glm5_hal.conformance.report.markup import Html, tag
from glm5_hal.conformance.report.words import listed
from glm5_hal.conformance.verdict import JUDGED


@dataclass(frozen=True)
class Look:
    """How a status appears: never by colour alone."""

    symbol: str
    style: str
    label: str


LOOKS = {
    Status.CRASH: Look("‼", "fail", "crashed"),
    Status.FAIL: Look("✗", "fail", "failed"),
    Status.TIMEOUT: Look("∞", "fail", "timed out"),
    Status.EXPECTED_FAIL: Look("≈", "warn", "expected to fail"),
    Status.UNSUPPORTED: Look("○", "none", "unsupported"),
    Status.NOT_RUN: Look("–", "none", "not run"),
    Status.PASS: Look("✓", "pass", "passed"),
}
"""The worst first: a cell of the matrix looks like its worst case."""

ORDER = (Status.PASS, *(status for status in LOOKS if status is not Status.PASS))
"""In which the report lists statuses: passed first, then the worst."""


def symbol(status: Status) -> Html:
    """The sign of a status, which is not read aloud."""
    return tag("span", LOOKS[status].symbol, class_="sym", aria_hidden="true")


def labelled(status: Status) -> Html:
    """Sign and word of a status."""
    look = LOOKS[status]
    return tag("span", symbol(status), f" {look.label}", class_=f"{look.style} nowrap")


def judged(tally: Mapping[Status, int]) -> int:
    """How many cases were executed."""
    return sum(tally.get(status, 0) for status in JUDGED)


def worst_of(tally: Counter[Status] | None) -> Status | None:
    """The worst status of a tally, None where there is no case."""
    return next((status for status in LOOKS if tally and tally[status]), None)


def tally_in_words(tally: Counter[Status], statuses: Iterable[Status] = ORDER) -> str:
    """How many cases have each status, as in ``3 passed and 1 failed``."""
    return listed([f"{tally[s]:,} {LOOKS[s].label}" for s in statuses if tally[s]])
