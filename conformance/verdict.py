"""What results amount to: whether a run passed, and what it shows. Pure functions of records,
so that a run and the check of its package cannot disagree.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from glm5_hal.conformance.case import Case, Result, Status
from glm5_hal.conformance.mustpass import MustPass
from glm5_hal.levels import Level

BROKEN = (Status.FAIL, Status.CRASH, Status.TIMEOUT)
JUDGED = (Status.PASS, Status.EXPECTED_FAIL, *BROKEN)
NO_CASES = "does not exist yet in this version"


def counts(results: Iterable[Result]) -> dict[str, int]:
    """Number of results of each status, all statuses named."""
    found = Counter(result.status for result in results)
    return {status.value: found[status] for status in Status}


def judged(results: Iterable[Result]) -> int:
    """Number of cases that ran to a judgement."""
    return sum(result.status in JUDGED for result in results)


def problems(results: Sequence[Result], must_pass: MustPass, *, partial: bool) -> list[str]:
    """Why a run has failed, in sentences; empty when it has passed."""
    said = [
        f"{count} cases: {status.value}"
        for status in BROKEN
        if (count := sum(result.status is status for result in results))
    ]
    if not partial:
        said += must_pass.differences(result.id for result in results)
    if not judged(results):
        said.append("no case ran")
    return said


def missing_levels(cases: Iterable[Case | Result]) -> dict[str, str]:
    """Levels that no case of the suite is about, and what to say of them."""
    present = {case.aspect for case in cases}
    return {level.value: NO_CASES for level in Level if level.value not in present}


@dataclass(frozen=True)
class Shown:
    """What a package shows.

    Attributes:
        none_because: why it shows nothing; empty when it shows something.
        levels: level to ops for which every case passed.
        waived: level to ops with an expected failure: not shown.
    """

    none_because: tuple[str, ...]
    levels: dict[str, tuple[str, ...]]
    waived: dict[str, tuple[str, ...]]

    @classmethod
    def of(
        cls,
        results: Sequence[Result],
        must_pass: MustPass,
        *,
        partial: bool,
        substituted: Sequence[str],
        dirty: bool,
    ) -> "Shown":
        """Draw the conclusions."""
        because = problems(results, must_pass, partial=partial)
        if partial:
            because.insert(0, "partial selection")
        if substituted:
            because.append(f"ops ran on the CPU instead of the backend: {', '.join(substituted)}")
        if dirty:
            because.append("the suite is not the one that its version names")
        if because:
            return cls(tuple(because), {}, {})
        shown, waived = {}, {}
        for level in Level:
            cases = [r for r in results if r.aspect == level.value and r.status in JUDGED]
            failing = {r.op for r in cases if r.status is Status.EXPECTED_FAIL}
            if cases:
                shown[level.value] = tuple(sorted({r.op for r in cases} - failing))
            if failing:
                waived[level.value] = tuple(sorted(failing))
        return cls((), shown, waived)

    def to_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        return {
            "none_because": list(self.none_because),
            "levels": {level: list(ops) for level, ops in self.levels.items()},
            "waived": {level: list(ops) for level, ops in self.waived.items()},
        }

    def __str__(self) -> str:
        if self.none_because:
            head = "partial: " if self.none_because[0] == "partial selection" else ""
            return f"{head}claims nothing ({'; '.join(self.none_because)})"
        return "shows " + ", ".join(
            f"{level} of {len(ops)} ops" for level, ops in self.levels.items()
        )
