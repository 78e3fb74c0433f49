"""Test data from the project's own generator, so that digests outlive framework versions.

Every tensor is named; its name is its seed. Values are made by integer rules, float32
multiplications and one rounding to the wanted dtype.
"""

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from glm5_hal import philox

SEED = 20260211
"""Key of every draw of the suite."""


def normal(name: str, shape: Sequence[int], dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    """Nearly normal values of standard deviation `scale`."""
    drawn = philox.normal(SEED, philox.stream_of(name), 0, prod(shape)) * np.float32(scale)
    return torch.from_numpy(drawn).reshape(tuple(shape)).to(dtype)


def integers(name: str, shape: Sequence[int], low: int, high: int) -> Tensor:
    """int32 values in [low, high); every value about as often."""
    words = philox.words(SEED, philox.stream_of(name), 0, prod(shape))
    drawn = (words >> np.uint64(32)).astype(np.int64) * (high - low) >> 32
    return torch.from_numpy((drawn + low).astype(np.int32)).reshape(tuple(shape))


def permutation(name: str, size: int) -> Tensor:
    """A permutation of [0, size), int64."""
    words = philox.words(SEED, philox.stream_of(name), 0, size)
    return torch.from_numpy(np.argsort(words, kind="stable"))


def _outliers(factor: float) -> Callable[[Tensor, str], Tensor]:
    """One column in 64 (at least one) is `factor` times as large, in every row."""

    def apply(x: Tensor, name: str) -> Tensor:
        columns = permutation(f"{name}/outliers", x.shape[-1])[: max(1, x.shape[-1] // 64)]
        x[..., columns] *= factor
        return x

    return apply


def _plateau(x: Tensor, name: str) -> Tensor:
    """Three values in four are exactly zero, as sums of ReLUs are."""
    kept = integers(f"{name}/plateau", x.shape, 0, 4) == 0
    return torch.where(kept, x.abs(), 0.0)


def _equal(x: Tensor, name: str) -> Tensor:
    """All values of a row are the row's first."""
    return x[..., :1].expand(x.shape).contiguous() if x.numel() else x


def _near_ties(x: Tensor, name: str) -> Tensor:
    """Values one unit in the last place apart around 1, many of them equal."""
    steps = integers(f"{name}/ties", x.shape, 0, 4)
    return (torch.ones(x.shape).view(torch.int32) + steps).view(torch.float32)


def _signed_zeros(x: Tensor, name: str) -> Tensor:
    """Half the values are zeros of either sign."""
    which = integers(f"{name}/zeros", x.shape, 0, 4)
    return torch.where(which == 0, -0.0, torch.where(which == 1, 0.0, x))


def _subnormals(x: Tensor, name: str) -> Tensor:
    """Half the values are below 2^-126."""
    which = integers(f"{name}/subnormals", x.shape, 0, 2)
    return torch.where(which == 0, x * 2.0**-130, x)


def _infinities(x: Tensor, name: str) -> Tensor:
    """One value in 97 is +Inf or -Inf."""
    which = integers(f"{name}/infinities", x.shape, 0, 194)
    return torch.where(which == 0, torch.inf, torch.where(which == 1, -torch.inf, x))


def _nans(x: Tensor, name: str) -> Tensor:
    """One value in 97 is NaN."""
    return torch.where(integers(f"{name}/nans", x.shape, 0, 97) == 0, torch.nan, x)


def _same(x: Tensor, name: str) -> Tensor:
    return x


KINDS: dict[str, Callable[[Tensor, str], Tensor]] = {
    "normal": _same,
    "outlier60": _outliers(60.0),
    "outlier1000": _outliers(1000.0),
    "plateau": _plateau,
    "equal": _equal,
    "neartie": _near_ties,
    "zeros": _signed_zeros,
    "subnormal": _subnormals,
    "inf": _infinities,
    "nan": _nans,
}
"""Kinds of float data by name."""


def values(kind: str, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Data of a kind, [*shape] in `dtype`."""
    return KINDS[kind](normal(name, shape, torch.float32), name).to(dtype)
