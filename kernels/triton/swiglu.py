"""SwiGLU, element by element."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm5_hal.kernels.triton.floats import narrow, read, sigmoid, widen, write
from glm5_hal.kernels.triton.target import Target, tiles_of


@triton.jit
def exact_kernel(first, gate_up, out, count, width, rows: tl.constexpr, block: tl.constexpr):
    """out [count, width] of gate_up [count, 2 * width]."""
    program = tl.program_id(0) + first
    across = tl.cdiv(width, block)
    row = (program // across) * rows + tl.arange(0, rows)
    column = (program % across) * block + tl.arange(0, block)
    mask = (row < count)[:, None] & (column < width)[None, :]
    at = row.to(tl.int64)[:, None] * width
    gate = read(widen(tl.load(gate_up + 2 * at + column[None, :], mask=mask, other=0.0)))
    up = read(widen(tl.load(gate_up + 2 * at + width + column[None, :], mask=mask, other=0.0)))
    value = (gate * sigmoid(gate)) * up
    tl.store(out + at + column[None, :], write(value, out.dtype.element_ty), mask=mask)


@triton.jit
def fast_kernel(first, gate_up, out, count, width, rows: tl.constexpr, block: tl.constexpr):
    """out [count, width] of gate_up [count, 2 * width]."""
    program = tl.program_id(0) + first
    across = tl.cdiv(width, block)
    row = (program // across) * rows + tl.arange(0, rows)
    column = (program % across) * block + tl.arange(0, block)
    mask = (row < count)[:, None] & (column < width)[None, :]
    at = row.to(tl.int64)[:, None] * width
    gate = widen(tl.load(gate_up + 2 * at + column[None, :], mask=mask, other=0.0))
    up = widen(tl.load(gate_up + 2 * at + width + column[None, :], mask=mask, other=0.0))
    small = tl.exp(-tl.abs(gate))
    share = tl.math.div_rn(tl.where(gate >= 0.0, 1.0, small), small + 1.0)
    value = gate * share * up
    tl.store(out + at + column[None, :], narrow(value, out.dtype.element_ty), mask=mask)


def _run(kernel: object, gate_up: Tensor, target: Target) -> Tensor:
    gate_up = gate_up.contiguous()
    count, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(count, width, dtype=gate_up.dtype, device=gate_up.device)
    tile = target.tile("elements")
    block = tile.fitted("block", width)
    programs = tiles_of(count, tile.sizes["rows"]) * tiles_of(width, block)
    target.launch(kernel, programs, gate_up, out, count, width, tile="elements", block=block)
    return out


def exact(gate_up: Tensor, target: Target) -> Tensor:
    """silu(gate) * up [T, I] of gate_up [T, 2I]."""
    return _run(exact_kernel, gate_up, target)


def fast(gate_up: Tensor, target: Target) -> Tensor:
    """silu(gate) * up [T, I] of gate_up [T, 2I]."""
    return _run(fast_kernel, gate_up, target)
