"""What passes between the model and a backend besides tensors: weights, caches, page tables."""

import enum
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import I32, Array


class WeightRole(enum.Enum):
    """Which op a parameter serves; decides what a backend makes of it at load."""

    EMBEDDING = "embedding"
    """[V, D], rows are looked up."""
    LINEAR = "linear"
    """[N, K], as torch stores it: out x in."""
    HEAD_LINEAR = "head_linear"
    """[H, N, K], one matrix a head."""
    EXPERTS = "experts"
    """[E, N, K], one matrix an expert."""
    VECTOR = "vector"
    """[D], float32: norm weights and biases, the router's correction bias."""
    SHARD = "shard"
    """[N, k], the columns of a linear weight [N, K] that one of several ranks holds."""
    ROPE_TABLE = "rope_table"
    """[P, R] float32: cosines of a position's R/2 angles, then their sines."""


@dataclass(frozen=True)
class RowShard:
    """Columns of a linear weight, and what must be known of its whole rows.

    Attributes:
        columns: [N, k], this rank's.
        exponents: [N] int64, of the whole rows, as EXACT-FIXED-1 says.
        finite: [N] bool, whether the whole row holds no NaN or Inf.
    """

    columns: Tensor
    exponents: Tensor
    finite: Tensor


@dataclass(frozen=True)
class Weight:
    """A parameter as a backend keeps it (a prepacked layout, digits, a device copy).

    Attributes:
        role: the op it serves.
        shape: logical shape, as in the contract.
        dtype: logical dtype of the values.
        data: the backend's own form; nobody else looks inside.
    """

    role: WeightRole
    shape: tuple[int, ...]
    dtype: torch.dtype
    data: object

    @property
    def tensor(self) -> Tensor:
        """The plain tensor, for backends and references that keep one.

        Raises:
            TypeError: the backend keeps another form.
        """
        if not isinstance(self.data, Tensor):
            raise TypeError(f"this {self.role.value} weight is kept as {type(self.data).__name__}")
        return self.data

    @property
    def shard(self) -> RowShard:
        """The plain shard, for backends and references that keep one.

        Raises:
            TypeError: the backend keeps another form.
        """
        if not isinstance(self.data, RowShard):
            raise TypeError(f"this {self.role.value} weight is kept as {type(self.data).__name__}")
        return self.data


@dataclass(frozen=True)
class Cache:
    """Paged storage of rows, one per token and layer; slot = page * page_size + offset.

    Attributes:
        pages: number of physical pages.
        page_size: rows a page.
        width: values a row.
        dtype: dtype of the rows.
        data: the backend's own form; nobody else looks inside.
    """

    pages: int
    page_size: int
    width: int
    dtype: torch.dtype
    data: object

    @property
    def shape(self) -> tuple[int, int]:
        """(slots, width)."""
        return self.pages * self.page_size, self.width

    @property
    def tensor(self) -> Tensor:
        """The plain [pages * page_size, width] tensor, for backends that keep one.

        Raises:
            TypeError: the backend keeps another form.
        """
        if not isinstance(self.data, Tensor):
            raise TypeError(f"this cache is kept as {type(self.data).__name__}")
        return self.data


@dataclass(frozen=True)
class PagedContext:
    """Which cached rows each packed query token sees: rows [0, lengths[t]) of its sequence.

    Row i of sequence b lies in slot ``page_table[b, i // page_size] * page_size + i % page_size``.
    Tokens of one sequence stand together, at consecutive positions.

    Attributes:
        page_table: [B, P] int32, physical page of each logical page; -1 where none.
        sequence: [T] int32, row of `page_table` of each query token.
        lengths: [T] int32, visible rows of each query token, at least 1.
        max_length: at least the largest of `lengths`, known on the host.
    """

    page_table: Annotated[Tensor, Array("B P", I32)]
    sequence: Annotated[Tensor, Array("T", I32)]
    lengths: Annotated[Tensor, Array("T", I32)]
    max_length: int

    def slots(self, token: int, page_size: int, indices: Tensor | None = None) -> Tensor:
        """Slots of the rows that `token` sees, int64 in position order.

        With `indices` [T, k] these are the rows it names, up to its first -1; without, all
        lengths[token].
        """
        if indices is None:
            rows = torch.arange(int(self.lengths[token]), device=self.page_table.device)
        else:
            chosen = indices[token].long()
            rows = chosen[: int((chosen >= 0).long().cumprod(0).sum())]
        pages = self.page_table[int(self.sequence[token])].long()
        return pages[rows // page_size] * page_size + rows % page_size
