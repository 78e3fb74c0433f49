"""All evidence together: what stands, what a newer one replaces, and where there is none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from glm5_hal.conformance.case import ASPECTS
from glm5_hal.conformance.matrix.evidence import Evidence, Kind
from glm5_hal.conformance.matrix.files import read_all
from glm5_hal.conformance.sources import Source
from glm5_hal.contract import OPS
from glm5_hal.levels import Numerics

PROFILES = tuple(sorted(numerics.value for numerics in Numerics))
_SCOPES = ("part", "quick", "full")


@dataclass(frozen=True)
class Matrix:
    """The support matrix.

    Attributes:
        backends: that are registered, and the profiles that each offers.
        ops: rows, ``model`` the last.
        cases: number of cases of the suite by profile, op and aspect.
        evidence: what nothing newer replaces, ordered by profile, backend and kind.
    """

    backends: Mapping[str, tuple[str, ...]]
    ops: tuple[str, ...]
    cases: Mapping[tuple[str, str, str], int]
    evidence: tuple[Evidence, ...]

    @classmethod
    def of(cls, folder: Path, source: Source, backends: Mapping[str, tuple[str, ...]]) -> "Matrix":
        """Read a folder.

        Args:
            folder: of evidence.
            source: the cases of today.
            backends: profiles by name of the backend.

        Raises:
            PackageError: naming the file that was altered or does not belong.
        """
        cases: dict[tuple[str, str, str], int] = {}
        for case in source.cases().values():
            key = (case.profile.value, case.op, case.aspect)
            cases[key] = cases.get(key, 0) + 1
        others = sorted({op for _, op, _ in cases} - OPS.keys())
        found = _standing(read_all(folder, source))
        order = list(Kind)
        found.sort(key=lambda e: (e.profile, order.index(e.kind), e.backend, e.scope, e.device))
        return cls(backends, (*sorted(OPS), *others), cases, tuple(found))

    def aspects(self, profile: str) -> tuple[str, ...]:
        """What cases of a profile are about, in the order of the columns."""
        present = {aspect for p, _, aspect in self.cases if p == profile}
        return tuple(aspect for aspect in ASPECTS if aspect in present)

    def ops_of(self, profile: str) -> tuple[str, ...]:
        """The rows of a profile: some ops belong to one only."""
        alien = {n for n, op in OPS.items() if op.profile and op.profile.value != profile}
        return tuple(op for op in self.ops if op not in alien)

    def runs(self, profile: str, simulated: bool) -> tuple[Evidence, ...]:
        """Evidence of what was run, on simulated devices or not."""
        return tuple(
            e
            for e in self.evidence
            if e.profile == profile
            and not e.kind.static
            and (e.kind is Kind.SIMULATED) is simulated
        )

    def static(self, profile: str) -> tuple[Evidence, ...]:
        """Evidence of what was read."""
        return tuple(e for e in self.evidence if e.profile == profile and e.kind.static)

    @property
    def without(self) -> tuple[tuple[str, str], ...]:
        """Backends and profiles of which nothing was run: all that can be said is no evidence."""
        run = {(e.backend, e.profile) for e in self.evidence if not e.kind.static}
        return tuple(
            (name, profile)
            for name, profiles in self.backends.items()
            for profile in profiles
            if (name, profile) not in run
        )

    def to_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        return {
            "evidence": [
                {
                    **evidence.to_dict(),
                    "cells": [
                        {
                            "op": op,
                            "aspect": aspect,
                            "state": cell.state.value,
                            "passed": cell.passed,
                            "judged": cell.judged,
                        }
                        for (op, aspect), cell in evidence.cells.items()
                    ],
                }
                for evidence in self.evidence
            ],
            "no evidence": [{"backend": name, "profile": p} for name, p in self.without],
        }


def _standing(found: Sequence[Evidence]) -> list[Evidence]:
    """Those that none replaces: a later run of as many cases, a later reading of the same."""
    return [old for old in found if not any(_replaces(new, old) for new in found)]


def _replaces(new: Evidence, old: Evidence) -> bool:
    return (
        new is not old
        and _what(new) == _what(old)
        and _rank(new) > _rank(old)
        and _covers(new, old)
    )


def _what(evidence: Evidence) -> tuple[str, ...]:
    device = evidence.device if evidence.kind is Kind.HARDWARE else ""
    target = evidence.scope if evidence.kind.static else ""
    return (evidence.backend, evidence.profile, evidence.kind.value, device, target)


def _rank(evidence: Evidence) -> tuple[str, str]:
    return (evidence.moment, evidence.file)


def _covers(new: Evidence, old: Evidence) -> bool:
    """Whether it judged no less; of two parts nobody knows."""
    if new.kind.static:
        return True
    if "part" in (new.scope, old.scope) and new.scope == old.scope:
        return new.cells.keys() >= old.cells.keys()
    return _SCOPES.index(new.scope) >= _SCOPES.index(old.scope)
