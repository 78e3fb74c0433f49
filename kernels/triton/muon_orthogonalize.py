"""Newton-Schulz orthogonalisation: matrix products of a batch, and a few element kernels."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm5_hal.exact import ACTIVATION_DIGITS
from glm5_hal.kernels.triton import products
from glm5_hal.kernels.triton.fixing import (
    NOT_FINITE,
    cut,
    exponent_of,
    exponents_of,
    field_of,
    fix,
    square_sum,
)
from glm5_hal.kernels.triton.floats import narrow, raised, read, widen, write
from glm5_hal.kernels.triton.target import Target, padded, tiles_of
from glm5_hal.kernels.triton.wide import added, summed, to_float
from glm5_hal.ops.muon_orthogonalize import COEFFICIENTS


@triton.jit
def wide_kernel(first, g, exponents, out, count, each, block: tl.constexpr):
    """Float32 of each matrix's elements [count], `each` a matrix, divided by 2^exponent."""
    place = (tl.program_id(0) + first).to(tl.int64) * block + tl.arange(0, block)
    mask = place < count
    value = widen(tl.load(g + place, mask=mask, other=0.0))
    value = tl.where(field_of(value) == 0, 0.0, value)
    exponent = tl.load(exponents + place // each, mask=mask, other=0)
    moved = raised(value, -exponent)
    tl.store(out + place, moved, mask=mask)


@triton.jit
def square_kernel(first, wide, squares, count, width, rows: tl.constexpr, block: tl.constexpr):
    """Sums of squares of rows wide [count, width], float32."""
    row = (tl.program_id(0) + first) * rows + tl.arange(0, rows)
    known = row < count
    at = wide + row.to(tl.int64)[:, None] * width
    largest = tl.zeros([rows, block], tl.int32)
    for begin in range(0, width, block):
        column = begin + tl.arange(0, block)
        mask = known[:, None] & (column < width)[None, :]
        value = tl.load(at + column[None, :], mask=mask, other=0.0)
        largest = tl.maximum(largest, field_of(value))
    exponent = exponent_of(tl.max(largest, 1))
    high = tl.zeros([rows], tl.int32)
    low = tl.zeros([rows], tl.int32)
    for begin in range(0, width, block):
        column = begin + tl.arange(0, block)
        mask = known[:, None] & (column < width)[None, :]
        value = tl.load(at + column[None, :], mask=mask, other=0.0)
        more_high, more_low = square_sum(fix(value, exponent[:, None], 3), 1)
        high, low = added(high, low, more_high, more_low)
    square = to_float(high, low)
    tl.store(squares + row, raised(square, 2 * (exponent - 22)), mask=known)


@triton.jit
def inverse_kernel(first, squares, inverses, rows, block: tl.constexpr):
    """1 / sqrt(sum of squares [rows]) of each matrix."""
    matrix = tl.program_id(0) + first
    largest = tl.zeros([1, block], tl.int32)
    for begin in range(0, rows, block):
        row = (begin + tl.arange(0, block))[None, :]
        square = tl.load(squares + matrix * rows + row, mask=row < rows, other=0.0)
        largest = tl.maximum(largest, field_of(square))
    exponent = exponent_of(tl.max(largest, 1))
    high = tl.zeros([1], tl.int32)
    low = tl.zeros([1], tl.int32)
    for begin in range(0, rows, block):
        row = (begin + tl.arange(0, block))[None, :]
        square = tl.load(squares + matrix * rows + row, mask=row < rows, other=0.0)
        more_high, more_low = summed(fix(square, exponent[:, None], 3), 1)
        high, low = added(high, low, more_high, more_low)
    norm = raised(to_float(high, low), exponent - 22)
    inverse = tl.math.div_rn(1.0, tl.math.sqrt_rn(norm))
    tl.store(inverses + matrix + tl.arange(0, 1), inverse)


@triton.jit
def begin_kernel(first, wide, inverses, out, count, each, exact: tl.constexpr, block: tl.constexpr):
    """X: elements times their matrix's inverse norm."""
    place = (tl.program_id(0) + first).to(tl.int64) * block + tl.arange(0, block)
    mask = place < count
    value = tl.load(wide + place, mask=mask, other=0.0)
    inverse = tl.load(inverses + place // each, mask=mask, other=0.0)
    if exact:
        value = read(value)
    tl.store(out + place, value * inverse, mask=mask)


@triton.jit
def mix_kernel(
    first, x, y, out, count, a, b, weighted: tl.constexpr, exact: tl.constexpr, block: tl.constexpr
):
    """a * x + b * y, or a * x + y where it is not weighted."""
    place = (tl.program_id(0) + first).to(tl.int64) * block + tl.arange(0, block)
    mask = place < count
    left = tl.load(x + place, mask=mask, other=0.0)
    right = tl.load(y + place, mask=mask, other=0.0)
    if exact:
        left = read(left)
    if weighted:
        if exact:
            right = read(right)
        right = b * right
    tl.store(out + place, a * left + right, mask=mask)


@triton.jit
def end_kernel(first, x, exponents, out, count, each, exact: tl.constexpr, block: tl.constexpr):
    """The result in the output dtype: zeros for a matrix of zeros, NaN for one that holds any."""
    place = (tl.program_id(0) + first).to(tl.int64) * block + tl.arange(0, block)
    mask = place < count
    value = tl.load(x + place, mask=mask, other=0.0)
    exponent = tl.load(exponents + place // each, mask=mask, other=0)
    value = tl.where(exponent == -126, 0.0, value)
    value = tl.where(exponent == NOT_FINITE, float("nan"), value)
    dtype: tl.constexpr = out.dtype.element_ty
    value = write(value, dtype) if exact else narrow(value, dtype)
    tl.store(out + place, value, mask=mask)


def _times(exactly: bool, x: Tensor, y: Tensor, target: Target) -> Tensor:
    """Rows of x [B, m, K] with rows of y [B, n, K]: [B, m, n] float32."""
    batch, rows, _ = x.shape
    out = torch.empty(batch, rows, y.shape[1], dtype=torch.float32, device=x.device)
    layout: dict[str, Any] = {"groups": batch, "step": 1, "lead": rows}
    left, right = x.flatten(0, 1), y.contiguous().flatten(0, 1)
    if not exactly:
        products.fast(left, right, out, target, **layout)
        return out
    a = cut(left, target, ACTIVATION_DIGITS)
    b = a if x is y else cut(right, target, ACTIVATION_DIGITS)
    products.exact(a, b, out, target, **layout)
    return out


def _run(exactly: bool, g: Tensor, steps: int, target: Target) -> Tensor:
    a, b, c = COEFFICIENTS
    tall = g.shape[1] > g.shape[2]
    turned = (g.mT if tall else g).contiguous()
    batch, rows, width = turned.shape
    count, each = turned.numel(), rows * width
    floats: dict[str, Any] = {"dtype": torch.float32, "device": g.device}
    blocks = tiles_of(count, target.tile("flat").sizes["block"])

    def over(kernel: object, *arguments: object, size: int = blocks, **constants: object) -> None:
        target.launch(kernel, size, *arguments, tile="flat", **constants)

    def mixed(x: Tensor, y: Tensor, left: float, right: float | None) -> Tensor:
        out = torch.empty_like(x)
        size = tiles_of(x.numel(), target.tile("flat").sizes["block"])
        weights = (left, 1.5 if right is None else right)
        constants = {"weighted": right is not None, "exact": exactly}
        over(mix_kernel, x, y, out, x.numel(), *weights, size=size, **constants)
        return out

    exponents = exponents_of(turned.flatten(1), target)
    wide, x = (torch.empty(turned.shape, **floats) for _ in range(2))
    over(wide_kernel, turned, exponents, wide, count, each)
    squares = torch.empty(batch * rows, **floats)
    inverses = torch.empty(batch, **floats)
    programs = tiles_of(batch * rows, target.tile("exponents").sizes["rows"])
    target.launch(square_kernel, programs, wide, squares, batch * rows, width, tile="exponents")
    block = min(padded(rows), 1024)
    target.launch(inverse_kernel, batch, squares, inverses, rows, tile="inverse", block=block)
    over(begin_kernel, wide, inverses, x, count, each, exact=exactly)
    for _ in range(steps):
        gram = _times(exactly, x, x, target)
        polynomial = mixed(gram, _times(exactly, gram, gram, target), b, c)
        x = mixed(x, _times(exactly, polynomial, x.mT, target), a, None)
    out = torch.empty_like(turned)
    over(end_kernel, x, exponents, out, count, each, exact=exactly)
    return out.mT.contiguous() if tall else out


def exact(g: Tensor, steps: int, target: Target) -> Tensor:
    """Orthogonalised [B, m, n] of g [B, m, n]."""
    return _run(True, g, steps, target)


def fast(g: Tensor, steps: int, target: Target) -> Tensor:
    """Orthogonalised [B, m, n] of g [B, m, n]: the norm as in the exact profile."""
    return _run(False, g, steps, target)
