"""What was given to the report, put in its order; what is absent reads as nothing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from glm5_hal.conformance.case import ASPECTS, Result, Status
from glm5_hal.conformance.report.words import NOT_RECORDED, in_words
from glm5_hal.conformance.static_evidence import StaticEvidence
from glm5_hal.contract import OPS
from glm5_hal.levels import Level

MODEL = "model"
"""The op that cases of the whole model are of."""


def mapping_of(value: object) -> Mapping[str, object]:
    """The value where it is a mapping; otherwise an empty one."""
    return value if isinstance(value, Mapping) else {}


def items_of(value: object) -> list[object]:
    """The entries of a value where it is a list; otherwise none."""
    return list(value) if isinstance(value, list | tuple) else []


@dataclass(frozen=True)
class Run:
    """Manifest and results, in the order of the report whatever order they came in.

    Attributes:
        manifest: of the result package.
        results: of all cases.
        static: an audit of the backend's kernels, if one is attached.
    """

    manifest: Mapping[str, object]
    results: tuple[Result, ...]
    static: StaticEvidence | None = None

    @classmethod
    def of(
        cls,
        manifest: Mapping[str, object],
        results: Sequence[Result],
        static: StaticEvidence | None = None,
    ) -> "Run":
        """Sorted by op, aspect and id."""
        ops = {name: place for place, name in enumerate((*OPS, MODEL))}

        def key(result: Result) -> tuple[int, str, int, str]:
            aspect = ASPECTS.index(result.aspect) if result.aspect in ASPECTS else len(ASPECTS)
            return ops.get(result.op, len(ops)), result.op, aspect, result.id

        return cls(manifest, tuple(sorted(results, key=key)), static)

    def at(self, *path: str) -> object:
        """A value of the manifest, None where there is none."""
        value: object = self.manifest
        for key in path:
            value = mapping_of(value).get(key)
        return value

    def text(self, *path: str) -> str:
        """A value of the manifest in words."""
        return in_words(self.at(*path)) or NOT_RECORDED

    @property
    def simulated(self) -> bool:
        """Whether the device was a simulated one."""
        return self.at("plan", "simulated") is True

    @cached_property
    def ops(self) -> list[str]:
        """Rows of the matrix: the contract's ops, the model, then whatever else there is."""
        return list(dict.fromkeys((*OPS, MODEL, *(result.op for result in self.results))))

    @cached_property
    def aspects(self) -> list[str]:
        """Columns of the matrix."""
        return list(dict.fromkeys((*ASPECTS, *(result.aspect for result in self.results))))

    @cached_property
    def tally(self) -> Counter[Status]:
        """Cases by status."""
        return Counter(result.status for result in self.results)

    @cached_property
    def cells(self) -> dict[tuple[str, str], Counter[Status]]:
        """Cases by status for each op and aspect that has any."""
        found: dict[tuple[str, str], Counter[Status]] = {}
        for result in self.results:
            found.setdefault((result.op, result.aspect), Counter())[result.status] += 1
        return found

    def of_aspect(self, aspect: str) -> Counter[Status]:
        """Cases of an aspect by status, over all ops."""
        cells = (tally for (_, other), tally in self.cells.items() if other == aspect)
        return sum(cells, Counter[Status]())

    @cached_property
    def claimed(self) -> list[str]:
        """Levels that the backend claims, with the mandatory one, in the order of the columns."""
        levels = {*map(in_words, items_of(self.at("claims"))), Level.RUN_TO_RUN.value}
        return sorted(levels, key=[*self.aspects, *sorted(levels)].index)
