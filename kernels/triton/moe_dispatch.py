"""Moving tokens into expert order: a stable counting sort.

Blocks of slots count their experts; one program turns the counts into each block's first places;
each slot then stands behind those of its block that come before it and chose the same expert.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm5_hal.kernels.triton import rows
from glm5_hal.kernels.triton.target import Target, padded, tiles_of


@triton.jit
def count_kernel(
    first, ids, counts, total, experts, block: tl.constexpr, padded_experts: tl.constexpr
):
    """counts [blocks, experts] of ids [total]."""
    here = tl.program_id(0) + first
    slot = here * block + tl.arange(0, block)
    chosen = tl.load(ids + slot, mask=slot < total, other=-1)
    expert = tl.arange(0, padded_experts)
    same = (chosen[:, None] == expert[None, :]).to(tl.int32)
    at = counts + here.to(tl.int64) * experts + expert
    tl.store(at, tl.sum(same, 0), mask=expert < experts)


@triton.jit
def place_kernel(first, counts, places, offsets, blocks, experts, padded_experts: tl.constexpr):
    """offsets [experts + 1], and the first place of each block and expert."""
    expert = tl.program_id(0) + first + tl.arange(0, padded_experts)
    known = expert < experts
    total = tl.zeros([padded_experts], tl.int32)
    for here in range(blocks):
        total += tl.load(counts + here * experts + expert, mask=known, other=0)
    ends = tl.cumsum(total, 0)
    place = ends - total
    tl.store(offsets + expert, place, mask=known)
    tl.store(offsets + expert + 1, ends, mask=expert == experts - 1)
    for here in range(blocks):
        tl.store(places + here * experts + expert, place, mask=known)
        place += tl.load(counts + here * experts + expert, mask=known, other=0)


@triton.jit
def sort_kernel(first, ids, places, slots, total, experts, block: tl.constexpr):
    """slots [total]: the slot that stands at each place."""
    here = tl.program_id(0) + first
    lane = tl.arange(0, block)
    slot = here * block + lane
    mask = slot < total
    mine = tl.load(ids + slot, mask=mask, other=-1)
    before = (mine[:, None] == mine[None, :]) & (lane[None, :] < lane[:, None])
    rank = tl.sum(before.to(tl.int32), 1)
    start = tl.load(places + here.to(tl.int64) * experts + mine, mask=mask, other=0)
    tl.store(slots + start + rank, slot, mask=mask)


def run(x: Tensor, ids: Tensor, experts: int, target: Target) -> tuple[Tensor, Tensor, Tensor]:
    """(rows [T * k, D], offsets [experts + 1], slots [T * k]); the same in every profile."""
    total = ids.numel()
    integers: dict[str, Any] = {"dtype": torch.int32, "device": x.device}
    offsets = torch.empty(experts + 1, **integers)
    slots = torch.empty(total, **integers)
    block = target.tile("sort").sizes["block"]
    blocks = tiles_of(total, block)
    counts, places = (torch.empty(blocks, experts, **integers) for _ in range(2))
    ids = ids.contiguous()
    size = {"padded_experts": padded(experts)}
    target.launch(count_kernel, blocks, ids, counts, total, experts, tile="sort", **size)
    arguments = (counts, places, offsets, blocks, experts)
    target.launch(place_kernel, 1, *arguments, tile="places", **size)
    target.launch(sort_kernel, blocks, ids, places, slots, total, experts, tile="sort")
    x = x if x.stride(-1) == 1 else x.contiguous()
    return rows.gather(x, slots, target, shared=ids.shape[1]), offsets, slots
