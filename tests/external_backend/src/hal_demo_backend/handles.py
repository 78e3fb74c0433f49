"""How this backend keeps weights and caches; glm5-hal never looks inside."""

from dataclasses import dataclass

import torch
from torch import Tensor

from glm5_hal import Cache, Weight, WeightRole

MATRICES = {WeightRole.LINEAR, WeightRole.HEAD_LINEAR, WeightRole.EXPERTS}


@dataclass(frozen=True)
class Transposed:
    """A matrix [..., K, N], terms of the sums before columns."""

    matrix: Tensor


@dataclass(frozen=True)
class Plain:
    """A vector or a table as it came."""

    values: Tensor


@dataclass
class Pages:
    """Rows of a cache by page, [pages, page_size, width]."""

    rows: Tensor

    def write(self, slots: Tensor, rows: Tensor) -> None:
        """Store rows [T, width]."""
        self.rows[self._place(slots)] = rows

    def read(self, slots: Tensor) -> Tensor:
        """Rows [T, width]."""
        return self.rows[self._place(slots)]

    def _place(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        size = self.rows.shape[1]
        return slots.long() // size, slots.long() % size


def prepared(role: WeightRole, tensor: Tensor) -> Transposed | Plain:
    """A parameter as this backend keeps it."""
    if role in MATRICES:
        return Transposed(tensor.mT.contiguous())
    return Plain(tensor.clone())


def matrix(weight: Weight) -> Tensor:
    """A kept matrix [..., K, N] in float64."""
    assert isinstance(weight.data, Transposed)
    return weight.data.matrix.double()


def values(weight: Weight) -> Tensor:
    """A kept vector or table."""
    assert isinstance(weight.data, Plain)
    return weight.data.values


def pages(cache: Cache) -> Pages:
    """The pages of a cache."""
    assert isinstance(cache.data, Pages)
    return cache.data


def empty_pages(count: int, page_size: int, width: int, dtype: torch.dtype) -> Pages:
    """Pages that hold NaN until they are written."""
    return Pages(torch.full((count, page_size, width), torch.nan, dtype=dtype))
