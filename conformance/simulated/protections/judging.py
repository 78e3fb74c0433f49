"""Judging a backend with and without its protections, on the simulated device it lies on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from glm5_hal import Numerics, Runtime
from glm5_hal.conformance.case import Case, Result, Status
from glm5_hal.conformance.catalogue import catalogue
from glm5_hal.conformance.errors import UnusableError
from glm5_hal.conformance.judge import judge
from glm5_hal.conformance.simulated import device
from glm5_hal.conformance.simulated.protections.known import PROTECTIONS
from glm5_hal.conformance.simulated.protections.protection import Opener, Protection
from glm5_hal.plan import make_plan
from glm5_hal.registry import load


@dataclass(frozen=True)
class Finding:
    """What cases said of a backend with a protection, and without.

    Attributes:
        vendor: name of the backend.
        protection: that was taken away.
        cases: how many judged.
        broken: ids and messages of failures while it was there; there must be none.
        caught: ids and messages of failures without it; there must be one.
    """

    vendor: str
    protection: Protection
    cases: int
    broken: tuple[str, ...]
    caught: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether the protection works and is needed."""
        return not self.broken and bool(self.caught)


def examine(vendor: str, wanted: Sequence[Protection] = PROTECTIONS) -> Iterator[Finding]:
    """Judge a vendor's backend without each protection that its simulated device asks for.

    Raises:
        UnusableError: no device is simulated in this process.
    """
    profile = device.running()
    if profile is None:
        raise UnusableError("no device is simulated in this process: set GLM5_HAL_SIMULATED=1")
    for protection in wanted:
        if not protection.needed(profile):
            continue
        cases = cases_of(protection)
        yield Finding(
            vendor,
            protection,
            len(cases),
            _failures(vendor, protection.kept, protection.numerics, cases),
            _failures(vendor, protection.removed, protection.numerics, cases),
        )


def cases_of(protection: Protection) -> list[Case]:
    """The quick cases of its requirement and op, or those that it names."""
    return [
        case
        for case in catalogue().values()
        if case.requirement == protection.requirement
        and case.op == protection.op
        and case.profile is protection.numerics
        and (protection.cases in case.id if protection.cases else case.quick)
    ]


def _failures(
    vendor: str, opener: Opener, numerics: Numerics, cases: Sequence[Case]
) -> tuple[str, ...]:
    with opener(load(vendor).in_profile(numerics)) as backend:
        runtime = Runtime(make_plan(type(backend), 0, numerics, simulated=True), backend)
        results = [judge(case, runtime) for case in cases]
    return tuple(_told(result) for result in results if result.status is not Status.PASS)


def _told(result: Result) -> str:
    return f"{result.id}: {result.message}"
