"""Which cases a run takes."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from glm5_hal.conformance.case import Case
from glm5_hal.conformance.errors import AskedError
from glm5_hal.levels import Numerics


@dataclass(frozen=True)
class Selection:
    """What was asked for.

    Attributes:
        profile: numeric profile.
        quick: the quick cases only.
        ops: these ops only; all when empty. A name behind a minus is left out.
        case: this case only.
        aspects: what is judged, such as ``cross-backend``; everything when empty.
    """

    profile: Numerics = Numerics.FAST
    quick: bool = False
    ops: tuple[str, ...] = ()
    case: str | None = None
    aspects: tuple[str, ...] = ()

    @property
    def partial(self) -> bool:
        """Whether it is narrower than any must-pass list, so that it can claim nothing."""
        return bool(self.ops or self.aspects) or self.case is not None

    @property
    def list_name(self) -> str:
        """Name of the must-pass list it is held against."""
        return f"{self.profile.value}-{'quick' if self.quick else 'full'}"

    def to_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        return {
            "profile": self.profile.value,
            "quick": self.quick,
            "ops": list(self.ops),
            "case": self.case,
            "aspects": list(self.aspects),
        }

    def of(self, catalogue: Mapping[str, Case]) -> dict[str, Case]:
        """The selected cases, in the catalogue's order.

        Raises:
            AskedError: an op or a case that does not exist.
        """
        self._check(catalogue)
        return {
            name: case
            for name, case in catalogue.items()
            if case.profile is self.profile
            and (case.quick or not self.quick)
            and self._takes(case.op)
            and (not self.aspects or case.aspect in self.aspects)
            and self.case in (None, name)
        }

    def _takes(self, op: str) -> bool:
        kept = [name for name in self.ops if not name.startswith("-")]
        return f"-{op}" not in self.ops and (not kept or op in kept)

    def _check(self, catalogue: Mapping[str, Case]) -> None:
        known = sorted({case.op for case in catalogue.values()})
        asked = [name.removeprefix("-") for name in self.ops]
        unknown = [op for op in asked if op not in known]
        if unknown:
            raise AskedError(f"no op {', '.join(unknown)}; ops with cases: {', '.join(known)}")
        judged = sorted({case.aspect for case in catalogue.values()})
        if other := [aspect for aspect in self.aspects if aspect not in judged]:
            raise AskedError(f"no aspect {', '.join(other)}; there are: {', '.join(judged)}")
        if self.case is not None and self.case not in catalogue:
            raise AskedError(f"no case {self.case!r}; {closest(self.case, catalogue)}")
        if self.case is not None and catalogue[self.case].profile is not self.profile:
            profile = catalogue[self.case].profile.value
            raise AskedError(f"{self.case} is of the {profile} profile: --numerics {profile}")


def closest(name: str, known: Iterable[str]) -> str:
    """The names most like `name`, as the end of an error's sentence."""
    listed = list(known)
    containing = [other for other in listed if name.lower() in other.lower()]
    close = difflib.get_close_matches(name, listed, n=5, cutoff=0.5) or containing[:5]
    return f"close: {', '.join(close)}" if close else "`glm5-hal conformance list` names them"
