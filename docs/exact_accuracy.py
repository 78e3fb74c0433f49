"""Measures how far the exact profile's functions are from the functions they stand for.

``python docs/exact_accuracy.py`` prints a table. An error is counted in units of the last place of
the exact value's binade: a correctly rounded result is off by at most 0.5. Exact values are
computed in float64, which is good to 1e-8 such units.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from glm5_hal import exact

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
U32 = npt.NDArray[np.uint32]

SIGN = 0x80000000


def _sigmoid(x: F64) -> F64:
    """1 / (1 + e^-x) without cancellation or overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


@dataclass(frozen=True)
class Function:
    """A function of the profile on its domain.

    Attributes:
        name: as in `glm5_hal.exact`.
        domain: as the table says it.
        lowest: the smallest argument; -0 stands for 0.
        highest: the largest.
        exact: the function it stands for, in float64.
    """

    name: str
    domain: str
    lowest: float
    highest: float
    exact: Callable[[F64], F64]

    def __call__(self, x: F32) -> F32:
        """The profile's values."""
        found: F32 = getattr(exact, self.name)(torch.from_numpy(x)).numpy()
        return found

    def _ranges(self) -> Iterator[tuple[int, int]]:
        """First and last bits of the domain's negative and positive halves."""
        if self.lowest < 0:
            yield SIGN, SIGN | _bits(-self.lowest)
        if self.highest > 0:
            yield 0, _bits(self.highest)

    def all_bfloat16(self) -> F32:
        """Every bfloat16 number of the domain."""
        ends = [(first >> 16, last >> 16) for first, last in self._ranges()]
        patterns = [np.arange(first, last + 1, dtype=np.uint32) << 16 for first, last in ends]
        return np.concatenate(patterns).view(np.float32)

    def sweep(self, step: int, smallest: float = 0.0) -> F32:
        """Every step-th float32 bit pattern of the domain, and its ends, from a magnitude on."""
        start = _bits(smallest)
        patterns = [
            np.append(np.arange(first + start, last, step, dtype=np.uint32), np.uint32(last))
            for first, last in self._ranges()
        ]
        return np.concatenate(patterns).view(np.float32)


FUNCTIONS = (
    Function("exp", "[-80, 0]", -80.0, 0.0, np.exp),
    Function("exp2_fraction", "[-1/2, 1/2]", -0.5, 0.5, np.exp2),
    Function("sigmoid", "[-80, 3.4e38]", -80.0, float(np.finfo(np.float32).max), _sigmoid),
)
STEP = 4099
DENSE_STEP = 409
DENSE_FROM = 2.0**-12
"""Below it the functions are 1 or 1/2 and a last place or two."""


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def errors(found: F32, wanted: F64) -> F64:
    """Distances in units of the last place of the wanted values."""
    unit = np.exp2(np.floor(np.log2(wanted)) - 23)
    distance: F64 = np.abs(found.astype(np.float64) - wanted) / unit
    return distance


def worst(function: Function, x: F32) -> tuple[float, float]:
    """(error, argument) where the error is largest."""
    found = errors(function(x), function.exact(x.astype(np.float64)))
    place = int(np.argmax(found))
    return float(found[place]), float(x[place])


def rows() -> Iterator[tuple[Function, str, F32]]:
    """The table's rows: a function, the name of its arguments, the arguments."""
    for function in FUNCTIONS:
        yield function, "every bfloat16", function.all_bfloat16()
        yield function, f"every {STEP}th float32", function.sweep(STEP)
        dense = function.sweep(DENSE_STEP, DENSE_FROM)
        yield function, f"every {DENSE_STEP}th float32 from 2^-12", dense


def table() -> Iterator[str]:
    """The table's lines."""
    yield "| function | domain | arguments | number | worst error, ULP | at |"
    yield "|---|---|---|---|---|---|"
    for function, arguments, x in rows():
        error, place = worst(function, x)
        cells = (function.name, function.domain, arguments, f"{len(x):,}", f"{error:.4f}")
        yield f"| {' | '.join(cells)} | {place!r} |"


if __name__ == "__main__":
    print("\n".join(table()))
