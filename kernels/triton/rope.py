"""Rotary position embedding: some pairs of elements a program."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm5_hal.kernels.triton.floats import narrow, read, widen, write
from glm5_hal.kernels.triton.target import Target, padded, tiles_of


@triton.jit
def rope_kernel(
    first,
    x,
    positions,
    table,
    out,
    count,
    heads,
    half,
    token_stride,
    head_stride,
    interleaved: tl.constexpr,
    exact: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
):
    """out [count / heads, heads, 2 * half] of x, strided but for its last dimension."""
    row = (tl.program_id(0) + first) * rows + tl.arange(0, rows)
    pair = tl.arange(0, block)
    known = row < count
    mask = known[:, None] & (pair < half)[None, :]
    token = row // heads
    place = tl.load(positions + token, mask=known, other=0).to(tl.int64)
    angle = table + place[:, None] * (2 * half) + pair[None, :]
    cos = tl.load(angle, mask=mask, other=0.0)
    sin = tl.load(angle + half, mask=mask, other=0.0)
    source = token.to(tl.int64) * token_stride + (row % heads).to(tl.int64) * head_stride
    goal = row.to(tl.int64) * (2 * half)
    if interleaved:
        one = 2 * pair
        apart = 1
    else:
        one = pair
        apart = half
    a = widen(tl.load(x + source[:, None] + one[None, :], mask=mask, other=0.0))
    b = widen(tl.load(x + source[:, None] + one[None, :] + apart, mask=mask, other=0.0))
    dtype: tl.constexpr = out.dtype.element_ty
    if exact:
        a, b, cos, sin = read(a), read(b), read(cos), read(sin)
    left = a * cos - b * sin
    right = b * cos + a * sin
    if exact:
        left, right = write(left, dtype), write(right, dtype)
    else:
        left, right = narrow(left, dtype), narrow(right, dtype)
    if interleaved:
        column = tl.arange(0, 2 * block)
        inside = known[:, None] & (column < 2 * half)[None, :]
        tl.store(out + goal[:, None] + column[None, :], tl.interleave(left, right), mask=inside)
    else:
        tl.store(out + goal[:, None] + one[None, :], left, mask=mask)
        tl.store(out + goal[:, None] + one[None, :] + apart, right, mask=mask)


def _run(
    exactly: bool, x: Tensor, positions: Tensor, table: Tensor, interleaved: bool, target: Target
) -> Tensor:
    tokens, heads, width = x.shape
    x = x if x.stride(-1) == 1 else x.contiguous()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    programs = tiles_of(tokens * heads, target.tile("rope").sizes["rows"])
    arguments = (x, positions, table, out, tokens * heads, heads, width // 2, *x.stride()[:2])
    constants = {"interleaved": interleaved, "exact": exactly, "block": padded(width // 2)}
    target.launch(rope_kernel, programs, *arguments, tile="rope", **constants)
    return out


def exact(x: Tensor, positions: Tensor, table: Tensor, interleaved: bool, target: Target) -> Tensor:
    """x [T, H, R] turned to positions [T]; table [P, R]."""
    return _run(True, x, positions, table, interleaved, target)


def fast(x: Tensor, positions: Tensor, table: Tensor, interleaved: bool, target: Target) -> Tensor:
    """x [T, H, R] turned to positions [T]; table [P, R]."""
    return _run(False, x, positions, table, interleaved, target)
