"""Faults that single calls of an op do not show, or not all of them: they need the whole model."""

from dataclasses import replace

import torch
from torch import Tensor

from glm5_hal import Cache, PagedContext, Weight
from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.conformance.mutants.attending import Attending, Question
from glm5_hal.conformance.mutants.matrices import split_matmul
from glm5_hal.conformance.mutants.mutant import mutant


@mutant(
    "kernel-for-large-batches",
    "MODEL-1",
    "From 128 rows on a library takes a kernel that splits its sums in two.",
)
class KernelForLargeBatches(CpuBackend):
    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        if x.shape[0] < 128:
            return super().linear(x, w, out_dtype)
        return split_matmul(x, w.tensor, 2).to(out_dtype or x.dtype)


@mutant(
    "kernel-for-first-prefill",
    "MODEL-2",
    "Where nothing is cached yet, attention takes a prefill kernel that walks rows backwards.",
)
class KernelForFirstPrefill(Attending):
    def _answer(self, q: Question) -> Tensor:
        first = torch.unique_consecutive(q.context.sequence, return_counts=True)[1]
        starts = first.cumsum(0) - first
        if q.indices is None or bool((q.context.lengths[starts] > 1).any()):
            return super()._answer(q)
        count = (q.indices >= 0).int().cumprod(-1).sum(-1, keepdim=True)
        place = count - 1 - torch.arange(q.indices.shape[1])
        back = torch.where(place >= 0, q.indices.gather(1, place.clamp(min=0)), -1)
        return super()._answer(replace(q, indices=back))


@mutant(
    "cache-write-of-one-row",
    "MODEL-3",
    "Decode writes its one row with a kernel of its own, which stores eight bits a value.",
)
class CacheWriteOfOneRow(CpuBackend):
    def cache_write(self, cache: Cache, rows: Tensor, slots: Tensor) -> None:
        stored = rows.to(torch.float8_e4m3fn).to(rows.dtype) if rows.shape[0] == 1 else rows
        super().cache_write(cache, stored, slots)


@mutant(
    "page-table-uploaded-once",
    "MODEL-4",
    "The page table of a cache is copied to the device once for each batch size.",
)
class PageTableUploadedOnce(Attending):
    def __init__(self, index: int = 0) -> None:
        super().__init__(index)
        # the cache is kept with its tables so that an id is never reused
        self._tables: dict[tuple[int, torch.Size], tuple[Cache, Tensor]] = {}

    def _answer(self, q: Question) -> Tensor:
        table = q.context.page_table
        kept = self._tables.setdefault((id(q.cache), table.shape), (q.cache, table.clone()))
        return super()._answer(replace(q, context=replace(q.context, page_table=kept[1])))


@mutant(
    "rows-gathered-once",
    "MODEL-5",
    "Widened copies of cached rows are kept, though a rejected draft's row is written again.",
)
class RowsGatheredOnce(Attending):
    def __init__(self, index: int = 0) -> None:
        super().__init__(index)
        self._copies: dict[int, tuple[Cache, Tensor, Tensor]] = {}

    def _answer(self, q: Question) -> Tensor:
        empty = torch.zeros(q.cache.shape[0], dtype=torch.bool)
        _, known, rows = self._copies.setdefault(
            id(q.cache), (q.cache, empty, q.cache.tensor.clone())
        )
        for token in range(q.q_rope.shape[0]):
            slots = q.context.slots(token, q.cache.page_size)
            new = slots[~known[slots]]
            rows[new] = q.cache.tensor[new]
            known[new] = True
        return super()._answer(replace(q, cache=replace(q.cache, data=rows)))


@mutant(
    "rows-of-a-freed-page",
    "MODEL-4",
    "The same copies outlive the sequence whose page it was.",
)
class RowsOfAFreedPage(RowsGatheredOnce):
    pass


@mutant(
    "selection-kept-for-the-step",
    "MODEL-6",
    "What is computed from a step's page table is kept for its layers, the selection with it.",
)
class SelectionKeptForTheStep(CpuBackend):
    def __init__(self, index: int = 0) -> None:
        super().__init__(index)
        self._last: tuple[PagedContext, Tensor] | None = None

    def dsa_select(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float, k: int
    ) -> Tensor:
        if self._last is None or self._last[0] is not context:
            self._last = (context, super().dsa_select(q, w, keys, context, scale, k))
        return self._last[1].clone()


@mutant(
    "draw-never-changes",
    "MODEL-7",
    "The draws are uploaded when the graph is captured, and every replay uses those.",
)
class DrawNeverChanges(CpuBackend):
    def sample(self, logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> Tensor:
        return super().sample(logits, temperature, top_p, torch.full_like(draws, 1 << 23))
