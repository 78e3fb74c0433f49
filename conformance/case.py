"""A case: one requirement, one relation, one input; and what judging it leaves behind."""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from glm5_hal import Runtime
from glm5_hal.conformance.compare import Difference
from glm5_hal.levels import Level, Numerics

FUNCTION = "function"
ACCURACY = "accuracy"
GUARD = "guard"
ASPECTS = (FUNCTION, ACCURACY, GUARD, *(level.value for level in Level))
"""Columns of the matrix: what a case can be about."""


class Status(enum.Enum):
    """Outcome of a case."""

    PASS = "PASS"
    FAIL = "FAIL"
    UNSUPPORTED = "UNSUPPORTED"
    """The backend declares an optional op as not given, with a reason."""
    EXPECTED_FAIL = "EXPECTED_FAIL"
    """Fails, and a waiver with a reason and a date says so."""
    CRASH = "CRASH"
    """The worker process died."""
    TIMEOUT = "TIMEOUT"
    NOT_RUN = "NOT_RUN"
    """Not claimed by the backend, not selected, or a level that does not exist yet."""


class Failure(Exception):  # noqa: N818 - the outcome of a check, not an error of the suite
    """A check found the requirement broken.

    Attributes:
        message: what was found.
        change: what was changed when it broke ("row 3 alone", "2 threads"); empty if nothing.
        difference: first differing element, where bytes were compared.
        hint: what usually causes this pattern.
    """

    def __init__(
        self,
        message: str,
        *,
        change: str = "",
        difference: Difference | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.change = change
        self.difference = difference
        self.hint = hint


@dataclass(frozen=True)
class Evidence:
    """What a passed (or failed) check measured.

    Attributes:
        digests: output name to SHA-256 of its bytes, shape and dtype.
        worst: largest error as a share of its bound (1 is the bound), accuracy cases only.
        ulps: histogram of errors in units in the last place of the output dtype: upper edge
            (1, 2, 4, ...; 0 stands for at most a half) to number of elements, accuracy cases only.
        explain: where the digests are not the golden ones, raises the `Failure` that shows the
            first difference; may be expensive, and is asked only then.
    """

    digests: dict[str, str] = field(default_factory=dict)
    worst: float | None = None
    ulps: dict[int, int] = field(default_factory=dict)
    explain: Callable[[], None] | None = field(default=None, repr=False, compare=False)


Check = Callable[[Runtime], Evidence]
"""Judges a backend; raises `Failure` when the requirement is broken."""


@dataclass(frozen=True)
class Case:
    """One thing that is checked.

    Attributes:
        id: ``REQUIREMENT/relation/input``, stable over versions.
        requirement: the id it checks.
        op: the op, or ``model``.
        aspect: what it is about, one of `ASPECTS`.
        relation: how it is judged: repeat, invariance, accuracy, parity or guard.
        profile: numeric profile.
        quick: part of the quick selection.
        check: judges a runtime.
        timeout: seconds after which it counts as hanging.
        shares: what its first run in a worker makes and later ones find there, if that is costly;
            cases of one name go to the same worker while there are others for the rest.
    """

    id: str
    requirement: str
    op: str
    aspect: str
    relation: str
    check: Check = field(repr=False, compare=False)
    profile: Numerics = Numerics.FAST
    quick: bool = False
    timeout: float = 120.0
    shares: str = ""


@dataclass(frozen=True)
class Result:
    """Outcome of one case, as one line of results.jsonl.

    Attributes:
        id, requirement, op, aspect, relation: of the case.
        status: outcome.
        seconds: time taken.
        message: why, for everything but PASS.
        change: what was changed when it broke.
        difference: `Difference` as plain data, or None.
        hint: what usually causes the pattern.
        reproduce: a command that runs this case alone.
        digests, worst, ulps: as in `Evidence`.
    """

    id: str
    requirement: str
    op: str
    aspect: str
    relation: str
    status: Status
    seconds: float
    message: str = ""
    change: str = ""
    difference: dict[str, object] | None = None
    hint: str = ""
    reproduce: str = ""
    digests: dict[str, str] = field(default_factory=dict)
    worst: float | None = None
    ulps: dict[int, int] = field(default_factory=dict)
