"""Faults of embedding, cache_write and cache_read: ops that move rows."""

import torch
from torch import Tensor

from glm5_hal import Cache, Weight
from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.conformance.mutants.mutant import mutant


@mutant(
    "embedding-one-hot",
    "EMBEDDING-1",
    "A chip without gathers multiplies one-hot rows by the table, and 0 * NaN is NaN.",
)
class OneHotEmbedding(CpuBackend):
    def embedding(self, ids: Tensor, table: Weight) -> Tensor:
        hot = torch.nn.functional.one_hot(ids.long(), table.shape[0])
        return (hot.float() @ table.tensor.float()).to(table.dtype)


@mutant(
    "embedding-last-duplicate",
    "EMBEDDING-2",
    "A lookup fetches each distinct id once and writes its row to the id's last place only.",
)
class LastDuplicateEmbedding(CpuBackend):
    def embedding(self, ids: Tensor, table: Weight) -> Tensor:
        rows = super().embedding(ids, table)
        last = {token: place for place, token in enumerate(ids.tolist())}
        out = torch.zeros_like(rows)
        places = torch.tensor(list(last.values()))
        out[places] = rows[places]
        return out


@mutant(
    "cache-write-whole-vectors",
    "CACHE-WRITE-1",
    "Rows are stored 32 values at a time, and what remains of a row is left out.",
)
class WholeVectorsCacheWrite(CpuBackend):
    def cache_write(self, cache: Cache, rows: Tensor, slots: Tensor) -> None:
        whole = rows.clone()
        tail = rows.shape[1] // 32 * 32
        whole[:, tail:] = cache.tensor[slots.long(), tail:]
        super().cache_write(cache, whole, slots)


@mutant(
    "cache-write-neighbour",
    "CACHE-WRITE-2",
    "A store of fixed width runs past its row into the slot behind it.",
)
class NeighbourCacheWrite(CpuBackend):
    def cache_write(self, cache: Cache, rows: Tensor, slots: Tensor) -> None:
        behind = (slots + 1).clamp(max=cache.shape[0] - 1)
        for row, slot in zip(rows, behind.tolist(), strict=True):
            cache.tensor[slot, :4] = row[:4]
        super().cache_write(cache, rows, slots)


@mutant(
    "cache-read-sorted",
    "CACHE-READ-1",
    "Slots are sorted so that reads coalesce, and the rows are not put back in order.",
)
class SortedCacheRead(CpuBackend):
    def cache_read(self, cache: Cache, slots: Tensor) -> Tensor:
        return super().cache_read(cache, slots.sort().values)
