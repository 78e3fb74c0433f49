"""LayerNorm with weight and bias: some whole rows a program."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm5_hal.exact import check_length
from glm5_hal.kernels.triton.fixing import NOT_FINITE, exponent_of, field_of, fix, square_sum
from glm5_hal.kernels.triton.floats import ROUNDER, narrow, read, scaled, widen, write
from glm5_hal.kernels.triton.rms_norm import inverse_root
from glm5_hal.kernels.triton.target import Target, padded, tiles_of
from glm5_hal.kernels.triton.wide import multiplied, summed, to_float

ROUNDER_BITS = tl.constexpr(0x4B400000)


@triton.jit
def exact_kernel(
    first,
    x,
    w,
    b,
    y,
    count,
    width,
    length,
    eps,
    rows: tl.constexpr,
    block: tl.constexpr,
):
    """y [count, width]; `length` is the width as a float."""
    row = (tl.program_id(0) + first) * rows + tl.arange(0, rows)
    column = tl.arange(0, block)
    mask = (row < count)[:, None] & (column < width)[None, :]
    at = row.to(tl.int64)[:, None] * width + column[None, :]
    value = widen(tl.load(x + at, mask=mask, other=0.0))
    exponent = exponent_of(tl.max(field_of(value), 1))
    whole = fix(value, exponent[:, None], 3)
    high, low = summed(whole, 1)
    lengths = tl.zeros([rows], tl.float32) + length
    quotient = tl.math.div_rn(to_float(high, low), lengths)
    mean = (quotient + ROUNDER).to(tl.int32, bitcast=True) - ROUNDER_BITS
    mean_high, mean_low = multiplied(mean, width)
    left = ((high - mean_high) << 30) + (low - mean_low)  # at most the width: high - mean_high <= 1
    rest = tl.math.div_rn(left.to(tl.float32), lengths)
    centred = (whole - mean[:, None]).to(tl.float32) - rest[:, None]
    centred = tl.where(mask, centred, 0.0)
    spread = exponent_of(tl.max(field_of(centred), 1))
    high, low = square_sum(fix(centred, spread[:, None], 3), 1)
    variance = tl.math.div_rn(to_float(high, low), lengths)
    inverse = inverse_root(variance, 2 * (spread + exponent - 44), eps)
    inverse = tl.where(exponent == NOT_FINITE, float("nan"), inverse)
    weight = read(tl.load(w + column, mask=column < width, other=0.0))
    bias = read(tl.load(b + column, mask=column < width, other=0.0))
    unscaled = read(scaled(centred, exponent[:, None] - 22))
    result = (unscaled * inverse[:, None]) * weight[None, :] + bias[None, :]
    tl.store(y + at, write(result, y.dtype.element_ty), mask=mask)


@triton.jit
def fast_kernel(
    first,
    x,
    w,
    b,
    y,
    count,
    width,
    length,
    eps,
    rows: tl.constexpr,
    block: tl.constexpr,
):
    """As `exact_kernel`, in float32."""
    row = (tl.program_id(0) + first) * rows + tl.arange(0, rows)
    column = tl.arange(0, block)
    mask = (row < count)[:, None] & (column < width)[None, :]
    at = row.to(tl.int64)[:, None] * width + column[None, :]
    value = widen(tl.load(x + at, mask=mask, other=0.0))
    mean = tl.math.div_rn(tl.sum(value, 1), length)
    centred = tl.where(mask, value - mean[:, None], 0.0)
    variance = tl.math.div_rn(tl.sum(centred * centred, 1), length)
    inverse = tl.math.div_rn(1.0, tl.math.sqrt_rn(variance + eps))
    weight = tl.load(w + column, mask=column < width, other=0.0)
    bias = tl.load(b + column, mask=column < width, other=0.0)
    result = centred * inverse[:, None] * weight[None, :] + bias[None, :]
    tl.store(y + at, narrow(result, y.dtype.element_ty), mask=mask)


def _run(kernel: object, x: Tensor, w: Tensor, b: Tensor, eps: float, target: Target) -> Tensor:
    x = x.contiguous()
    count, width = x.shape
    y = torch.empty_like(x)
    programs = tiles_of(count, target.tile("norm").sizes["rows"])
    arguments = (x, w, b, y, count, width, float(width), eps)
    target.launch(kernel, programs, *arguments, tile="norm", block=padded(width))
    return y


def exact(x: Tensor, w: Tensor, b: Tensor, eps: float, target: Target) -> Tensor:
    """Normalised rows of x [T, D] with w and b [D]."""
    check_length(x.shape[1])
    return _run(exact_kernel, x, w, b, eps, target)


def fast(x: Tensor, w: Tensor, b: Tensor, eps: float, target: Target) -> Tensor:
    """Normalised rows of x [T, D] with w and b [D]."""
    return _run(fast_kernel, x, w, b, eps, target)
