"""Inputs for tests of the CPU backend's ops, and comparison to the byte."""

import zlib
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from glm5_hal import Cache, PagedContext, Runtime, Weight, WeightRole, open_runtime
from glm5_hal.contract import Op

RUNTIME = open_runtime("cpu")
ACTIVATIONS = (torch.float32, torch.bfloat16)
by_dtype = pytest.mark.parametrize("dtype", ACTIVATIONS, ids=["fp32", "bf16"])
INTEGERS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}


def call(op: Op[..., Any], *args: Any, runtime: Runtime = RUNTIME, **kwargs: Any) -> Any:
    """An op on the CPU backend; weights come plain and are prepared for the call."""

    def prepared(value: Any) -> Any:
        if not isinstance(value, Weight):
            return value
        return runtime.prepare_weight(value.role, value.tensor)

    with runtime:
        return op(*map(prepared, args), **{key: prepared(value) for key, value in kwargs.items()})


def bits(tensor: Tensor) -> Tensor:
    """The same bytes as integers, so that -0 is not 0 and NaN equals itself."""
    kept = tensor.contiguous()
    return kept.view(INTEGERS[kept.dtype]) if kept.dtype in INTEGERS else kept


def same_bytes(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have one dtype, one shape and the same bytes."""
    return a.dtype == b.dtype and torch.equal(bits(a), bits(b))


class Inputs:
    """Seeded random tensors: the same for the same words, whatever was drawn elsewhere."""

    def __init__(self, *seed: object) -> None:
        self._generator = torch.Generator().manual_seed(zlib.crc32(repr(seed).encode()))

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
        """Normal values."""
        return (torch.randn(*shape, generator=self._generator) * scale).to(dtype)

    def uniform(self, *shape: int) -> Tensor:
        """Float32 values in [0, 1)."""
        return torch.rand(*shape, generator=self._generator)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Int32 values in [low, high)."""
        return torch.randint(low, high, shape, generator=self._generator, dtype=torch.int32)

    def permutation(self, count: int) -> Tensor:
        """0 .. count - 1 in random order, int64."""
        return torch.randperm(count, generator=self._generator)

    def weight(
        self, role: WeightRole, *shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0
    ) -> Weight:
        """A normal weight."""
        return kept(role, self.normal(*shape, dtype=dtype, scale=scale))

    def vector(self, width: int, around: float = 1.0) -> Weight:
        """A norm weight or bias."""
        return kept(WeightRole.VECTOR, self.normal(width, scale=0.3) + around)

    def experts(self, tokens: int, k: int, experts: int) -> Tensor:
        """Distinct ascending expert ids [tokens, k] int32."""
        drawn = [self.permutation(experts)[:k].sort().values for _ in range(tokens)]
        return torch.stack(drawn).int() if drawn else torch.zeros(0, k, dtype=torch.int32)


def kept(role: WeightRole, tensor: Tensor) -> Weight:
    """`tensor` as a plain weight, which references take as well."""
    return Weight(role, tuple(tensor.shape), tensor.dtype, tensor)


def empty_cache(
    pages: int, page_size: int, width: int, dtype: torch.dtype, fill: float = torch.nan
) -> Cache:
    """A cache whose every row holds `fill`: what is never written is never to be seen."""
    cache = RUNTIME.allocate_cache(pages, page_size, width, dtype)
    cache.tensor.fill_(fill)
    return cache


def paged(
    sequences: Sequence[Tensor],
    page_size: int,
    order: Tensor | None = None,
    fill: float = torch.nan,
) -> tuple[Cache, Tensor]:
    """(cache, page table [B, P]) holding the rows [S, W] of each sequence.

    Args:
        sequences: rows of each sequence.
        page_size: rows a page.
        order: physical pages in the order in which they are handed out; one page more than needed
            stays unused.
        fill: what unused slots hold.
    """
    counts = [-(-rows.shape[0] // page_size) for rows in sequences]
    total = sum(counts) + 1
    pages = order if order is not None else torch.arange(total)
    cache = empty_cache(total, page_size, sequences[0].shape[1], sequences[0].dtype, fill)
    table = torch.full((len(sequences), max(counts)), -1, dtype=torch.int32)
    taken = 0
    for row, (rows, count) in enumerate(zip(sequences, counts, strict=True)):
        table[row, :count] = pages[taken : taken + count]
        taken += count
        place = torch.arange(rows.shape[0])
        cache.tensor[table[row].long()[place // page_size] * page_size + place % page_size] = rows
    return cache, table


def context(
    table: Tensor, sequence: Sequence[int] | Tensor, lengths: Sequence[int] | Tensor, extra: int = 0
) -> PagedContext:
    """A context whose max_length is the largest length plus `extra`."""
    seen = torch.as_tensor(lengths, dtype=torch.int32)
    longest = int(seen.max()) if seen.numel() else 1
    rows = torch.as_tensor(sequence, dtype=torch.int32)
    return PagedContext(table, rows, seen, longest + extra)


def wide(value: Tensor | Weight) -> Any:
    """The same numbers in float64, for a reference that then rounds nothing."""
    if isinstance(value, Weight):
        tensor = value.tensor.double()
        return Weight(value.role, value.shape, tensor.dtype, tensor)
    return value.double()


def wide_cache(cache: Cache) -> Cache:
    """`wide` for a cache."""
    tensor = cache.tensor.double()
    return Cache(cache.pages, cache.page_size, cache.width, tensor.dtype, tensor)


def reference(op: Op[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The op's reference on float64 copies of all floating-point arguments: nothing is rounded."""

    def widened(value: Any) -> Any:
        if isinstance(value, Cache):
            return wide_cache(value)
        if isinstance(value, Weight) or (isinstance(value, Tensor) and value.is_floating_point()):
            return wide(value)
        return value

    return cast(Any, op.reference)(
        *map(widened, args), **{key: widened(value) for key, value in kwargs.items()}
    )
