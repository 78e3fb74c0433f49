"""Two packages side by side: do the outputs of the same cases have the same bytes?"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from glm5_hal.conformance import records
from glm5_hal.conformance.case import Result
from glm5_hal.conformance.errors import PackageError
from glm5_hal.conformance.manifest import suite_of
from glm5_hal.conformance.package import Package
from glm5_hal.conformance.runner import RESULTS_FILE
from glm5_hal.levels import Numerics

EXACT_OPS = ("embedding", "cache_write", "cache_read", "topk", "moe_dispatch")
"""Ops that move bytes or order given scores: one answer on every chip, whatever the profile."""


@dataclass(frozen=True)
class Pair:
    """One case with digests in both packages.

    Attributes:
        result: of the first package.
        agrees: whether all digests are equal.
        must: whether they have to be: always in the exact profile, else for `EXACT_OPS`.
    """

    result: Result
    agrees: bool
    must: bool


@dataclass(frozen=True)
class Agreement:
    """A comparison.

    Attributes:
        pairs: cases with digests on both sides.
        only: case ids that have digests on one side alone, first and second.
        remarks: what makes the two packages less comparable.
    """

    pairs: tuple[Pair, ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]
    remarks: tuple[str, ...]

    @property
    def broken(self) -> tuple[Pair, ...]:
        """Cases that had to agree and do not."""
        return tuple(pair for pair in self.pairs if pair.must and not pair.agrees)

    def rows(self) -> list[tuple[str, ...]]:
        """Op, aspect, number that agree of all, and whether they have to."""
        total: Counter[tuple[str, str]] = Counter()
        equal: Counter[tuple[str, str]] = Counter()
        must = set()
        for pair in self.pairs:
            key = pair.result.op, pair.result.aspect
            total[key] += 1
            equal[key] += pair.agrees
            if pair.must:
                must.add(key)
        return [
            (*key, f"{equal[key]}/{count}", "yes" if key in must else "no")
            for key, count in total.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "remarks": list(self.remarks),
            "only_first": list(self.only[0]),
            "only_second": list(self.only[1]),
            "cases": [
                {
                    "id": pair.result.id,
                    "op": pair.result.op,
                    "aspect": pair.result.aspect,
                    "agrees": pair.agrees,
                    "must_agree": pair.must,
                }
                for pair in self.pairs
            ],
        }


def compare(first: Package, second: Package) -> Agreement:
    """Compare the output digests of two packages.

    Raises:
        PackageError, RecordError: a package that cannot be read, or of another profile.
    """
    try:
        profiles = [Numerics(p.manifest["profile"]) for p in (first, second)]
        remarks = _remarks(first, second)
        contents = [p.files[RESULTS_FILE] for p in (first, second)]
    except (KeyError, TypeError, ValueError) as error:
        raise PackageError(f"not a whole package: {type(error).__name__}: {error}") from error
    if profiles[0] is not profiles[1]:
        raise PackageError(
            f"one package is {profiles[0].value}, the other {profiles[1].value}: their outputs "
            "are not meant to agree"
        )
    a, b = ({n: r for n, r in records.parse_all(c).items() if r.digests} for c in contents)
    exact = profiles[0] is Numerics.EXACT
    pairs = tuple(
        Pair(result, result.digests == b[name].digests, exact or result.op in EXACT_OPS)
        for name, result in a.items()
        if name in b
    )
    only = tuple(n for n in a if n not in b), tuple(n for n in b if n not in a)
    return Agreement(pairs, only, remarks)


def _remarks(first: Package, second: Package) -> tuple[str, ...]:
    said = []
    suites = [suite_of(package.manifest) for package in (first, second)]
    if suites[0].name != suites[1].name:
        said.append(f"made by different suites: {suites[0].name} and {suites[1].name}")
    elif suites[0].source != suites[1].source:
        said.append("made by suites of one version with different sources")
    seeds = [package.manifest["seeds"] for package in (first, second)]
    if seeds[0] != seeds[1]:
        said.append(f"made from different data: seeds {seeds[0]} and {seeds[1]}")
    return tuple(said)
