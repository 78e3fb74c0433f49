"""What one piece of evidence says: the same form for a run, an audit and a lowering."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

STATIC = "static"
"""In the place of an aspect: code was read, nothing was run."""


class Kind(enum.Enum):
    """How something was found out."""

    HARDWARE = "run on hardware"
    CPU = "run on the CPU"
    INTERPRETED = "interpreted"
    SIMULATED = "simulated"
    AUDIT = "static audit"
    LOWERING = "lowering"
    SCHEMA = "schema check"

    @property
    def static(self) -> bool:
        """Whether nothing was run."""
        return self in (Kind.AUDIT, Kind.LOWERING, Kind.SCHEMA)

    @property
    def short(self) -> str:
        """In one word."""
        return {Kind.HARDWARE: "hardware", Kind.CPU: "CPU"}.get(self, self.value)


class State(enum.Enum):
    """What evidence says of an op in an aspect."""

    PASSED = "passed"
    BROKEN = "broken"
    WAIVED = "waived"
    DECLARED = "declared unsupported"
    OUTDATED = "outdated"
    """The cases, their golden digests or the code that was read are others by now."""


@dataclass(frozen=True)
class Cell:
    """An op in an aspect.

    Attributes:
        state: what holds.
        passed: cases, or kernels, that passed.
        judged: those that were judged at all.
    """

    state: State
    passed: int
    judged: int


@dataclass(frozen=True)
class Evidence:
    """One file of evidence, in one profile.

    Attributes:
        backend: whose; empty for an audit of the portable kernels, which is about no backend.
        profile: numeric profile.
        kind: how it was found out.
        scope: ``full``, ``quick`` or ``part`` of the cases; the target of what is static.
        device: what it ran on, or the compiler that made the code.
        date: when it ended, in UTC, as ``2026-02-11``.
        commit: of the checkout it was made in; empty for a wheel.
        id: digest of the package or of the document.
        file: where it lies, relative to the folder.
        moment: date and time, for the order.
        cells: by op and aspect; what is missing here is without evidence.
        remarks: what is outdated and why, what the selection was; in sentences.
    """

    backend: str
    profile: str
    kind: Kind
    scope: str
    device: str
    date: str
    commit: str
    id: str
    file: str
    moment: str
    cells: Mapping[tuple[str, str], Cell]
    remarks: tuple[str, ...] = ()

    @property
    def outdated(self) -> bool:
        """Whether anything of it is."""
        return any(cell.state is State.OUTDATED for cell in self.cells.values())

    def to_dict(self) -> dict[str, object]:
        """Plain data, for JSON, without the cells."""
        rest = {k: v for k, v in vars(self).items() if k not in ("cells", "moment", "remarks")}
        return {
            **rest,
            "kind": self.kind.value,
            "outdated": self.outdated,
            "remarks": list(self.remarks),
        }
