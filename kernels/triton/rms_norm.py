"""RMSNorm with the residual addition before it: some whole rows a program."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm5_hal.exact import check_length
from glm5_hal.kernels.triton.fixing import NOT_FINITE, exponent_of, field_of, fix, square_sum
from glm5_hal.kernels.triton.floats import narrow, read, scaled, widen, write
from glm5_hal.kernels.triton.target import Target, padded, tiles_of
from glm5_hal.kernels.triton.wide import to_float


@triton.jit
def inverse_root(mean, exponent, eps):
    """1 / sqrt(mean * 2^exponent + eps)."""
    root = tl.math.sqrt_rn(scaled(mean, exponent) + eps)
    return tl.math.div_rn(1.0, root)


@triton.jit
def exact_kernel(
    first,
    x,
    residual,
    w,
    y,
    h,
    count,
    width,
    length,
    eps,
    summed: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
):
    """y and h [count, width] of x and residual; `length` is the width as a float."""
    row = (tl.program_id(0) + first) * rows + tl.arange(0, rows)
    column = tl.arange(0, block)
    mask = (row < count)[:, None] & (column < width)[None, :]
    at = row.to(tl.int64)[:, None] * width + column[None, :]
    value = widen(tl.load(x + at, mask=mask, other=0.0))
    if summed:
        other = widen(tl.load(residual + at, mask=mask, other=0.0))
        kept = write(read(value) + read(other), h.dtype.element_ty)
        tl.store(h + at, kept, mask=mask)
        value = widen(kept)
    exponent = exponent_of(tl.max(field_of(value), 1))
    high, low = square_sum(fix(value, exponent[:, None], 3), 1)
    squares = to_float(high, low)
    mean = tl.math.div_rn(squares, tl.zeros_like(squares) + length)
    inverse = inverse_root(mean, 2 * (exponent - 22), eps)
    inverse = tl.where(exponent == NOT_FINITE, float("nan"), inverse)
    weight = read(tl.load(w + column, mask=column < width, other=0.0))
    result = (read(value) * inverse[:, None]) * weight[None, :]
    tl.store(y + at, write(result, y.dtype.element_ty), mask=mask)


@triton.jit
def fast_kernel(
    first,
    x,
    residual,
    w,
    y,
    h,
    count,
    width,
    length,
    eps,
    summed: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
):
    """As `exact_kernel`, in float32."""
    row = (tl.program_id(0) + first) * rows + tl.arange(0, rows)
    column = tl.arange(0, block)
    mask = (row < count)[:, None] & (column < width)[None, :]
    at = row.to(tl.int64)[:, None] * width + column[None, :]
    value = widen(tl.load(x + at, mask=mask, other=0.0))
    if summed:
        other = widen(tl.load(residual + at, mask=mask, other=0.0))
        kept = narrow(value + other, h.dtype.element_ty)
        tl.store(h + at, kept, mask=mask)
        value = widen(kept)
    mean = tl.math.div_rn(tl.sum(value * value, 1), length)
    inverse = tl.math.div_rn(1.0, tl.math.sqrt_rn(mean + eps))
    weight = tl.load(w + column, mask=column < width, other=0.0)
    result = value * inverse[:, None] * weight[None, :]
    tl.store(y + at, narrow(result, y.dtype.element_ty), mask=mask)


def _run(
    kernel: object, x: Tensor, w: Tensor, eps: float, residual: Tensor | None, target: Target
) -> tuple[Tensor, Tensor]:
    x = x.contiguous()
    count, width = x.shape
    y = torch.empty_like(x)
    h = x if residual is None else torch.empty_like(x)
    programs = tiles_of(count, target.tile("norm").sizes["rows"])
    other = x if residual is None else residual.contiguous()
    arguments = (x, other, w, y, h, count, width, float(width), eps)
    constants = {"summed": residual is not None, "block": padded(width)}
    target.launch(kernel, programs, *arguments, tile="norm", **constants)
    return y, h


def exact(
    x: Tensor, w: Tensor, eps: float, residual: Tensor | None, target: Target
) -> tuple[Tensor, Tensor]:
    """(y, h), each [T, D], of x and residual [T, D] and w [D]."""
    check_length(x.shape[1])
    return _run(exact_kernel, x, w, eps, residual, target)


def fast(
    x: Tensor, w: Tensor, eps: float, residual: Tensor | None, target: Target
) -> tuple[Tensor, Tensor]:
    """(y, h), each [T, D], of x and residual [T, D] and w [D]."""
    return _run(fast_kernel, x, w, eps, residual, target)
