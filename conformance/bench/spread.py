"""What repeated measurements say: a median with its spread, and ratios of pairs."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

FEWEST_FOR_QUARTILES = 4


@dataclass(frozen=True)
class Spread:
    """Of some values, in their unit.

    Attributes:
        count: number of values.
        low: smallest.
        median: middle one, or the mean of the two middle ones.
        high: largest.
        quartiles: lower and upper, by linear interpolation; None of fewer than four values.
    """

    count: int
    low: float
    median: float
    high: float
    quartiles: tuple[float, float] | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Summarise at least one value.

        Raises:
            ValueError: no values.
        """
        if not values:
            raise ValueError("no values to summarise")
        quartiles = None
        if len(values) >= FEWEST_FOR_QUARTILES:
            lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
            quartiles = (lower, upper)
        return cls(len(values), min(values), statistics.median(values), max(values), quartiles)

    def to_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        return asdict(self)


def pair_ratios(ours: Sequence[float], peer: Sequence[float]) -> list[float]:
    """Of each round the ratio of its two runs, which stood side by side in time.

    Raises:
        ValueError: not the same number of runs.
    """
    return [mine / its for mine, its in zip(ours, peer, strict=True)]
