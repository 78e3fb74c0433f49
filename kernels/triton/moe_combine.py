"""Summing expert rows back into tokens: a chain of float32 operations in slot order."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm5_hal.kernels.triton.floats import narrow, read, widen, write
from glm5_hal.kernels.triton.target import Target, tiles_of


@triton.jit
def invert_kernel(first, slots, places, count, block: tl.constexpr):
    """places [count]: where each slot stands."""
    place = (tl.program_id(0) + first) * block + tl.arange(0, block)
    mask = place < count
    tl.store(places + tl.load(slots + place, mask=mask, other=0), place, mask=mask)


@triton.jit
def combine_kernel(
    first,
    expert_rows,
    places,
    weights,
    shared,
    out,
    tokens,
    width,
    k,
    added: tl.constexpr,
    exact: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
):
    """out [tokens, width] of expert rows [tokens * k, width]."""
    program = tl.program_id(0) + first
    across = tl.cdiv(width, block)
    token = (program // across) * rows + tl.arange(0, rows)
    column = (program % across) * block + tl.arange(0, block)
    known = token < tokens
    mask = known[:, None] & (column < width)[None, :]
    total = tl.zeros([rows, block], tl.float32)
    for slot in range(k):
        place = tl.load(places + token * k + slot, mask=known, other=0).to(tl.int64)
        weight = tl.load(weights + token * k + slot, mask=known, other=0.0)
        at = place[:, None] * width + column[None, :]
        row = widen(tl.load(expert_rows + at, mask=mask, other=0.0))
        if exact:
            row = read(row)
            weight = read(weight)
        total = total + row * weight[:, None]
    at = token.to(tl.int64)[:, None] * width + column[None, :]
    if added:
        last = widen(tl.load(shared + at, mask=mask, other=0.0))
        total = total + (read(last) if exact else last)
    dtype: tl.constexpr = out.dtype.element_ty
    value = write(total, dtype) if exact else narrow(total, dtype)
    tl.store(out + at, value, mask=mask)


def _run(
    exactly: bool,
    rows: Tensor,
    slots: Tensor,
    weights: Tensor,
    shared: Tensor | None,
    target: Target,
) -> Tensor:
    tokens, k = weights.shape
    width = rows.shape[1]
    rows = rows.contiguous()
    out = torch.empty(tokens, width, dtype=rows.dtype, device=rows.device)
    places = torch.empty_like(slots)
    count = slots.shape[0]
    programs = tiles_of(count, target.tile("invert").sizes["block"])
    target.launch(invert_kernel, programs, slots, places, count, tile="invert")
    tile = target.tile("elements")
    block = tile.fitted("block", width)
    programs = tiles_of(tokens, tile.sizes["rows"]) * tiles_of(width, block)
    other = rows if shared is None else shared.contiguous()
    arguments = (rows, places, weights.contiguous(), other, out, tokens, width, k)
    constants = {"added": shared is not None, "exact": exactly, "block": block}
    target.launch(combine_kernel, programs, *arguments, tile="elements", **constants)
    return out


def exact(
    rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None, target: Target
) -> Tensor:
    """[T, D] of rows [T * k, D], slots [T * k], weights [T, k] and shared [T, D]."""
    return _run(True, rows, slots, weights, shared, target)


def fast(
    rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None, target: Target
) -> Tensor:
    """[T, D] of rows [T * k, D], slots [T * k], weights [T, k] and shared [T, D]."""
    return _run(False, rows, slots, weights, shared, target)
