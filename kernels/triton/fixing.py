"""Fixed point: vectors of floats as int8 digits and an exponent, and sums of their products.

A vector's exponent is that of `glm5_hal.exact.fixed`; 255 stands for one that holds NaN or Inf,
whose integers are then zero. Digits lie in planes, lowest first.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm5_hal.exact import digits_of
from glm5_hal.kernels.triton.floats import scaled, widen
from glm5_hal.kernels.triton.target import Target, tiles_of
from glm5_hal.kernels.triton.wide import add_word, to_float
from glm5_hal.ops.row_exponents import NOT_FINITE as _NOT_FINITE

NOT_FINITE = tl.constexpr(_NOT_FINITE)


@dataclass(frozen=True)
class Digits:
    """Rows as integers times a power of two.

    Attributes:
        planes: [digits, rows, K] int8, balanced digits of base 256, lowest first.
        exponents: [rows] int32; 255 where a row holds NaN or Inf.
    """

    planes: Tensor
    exponents: Tensor

    @property
    def digits(self) -> int:
        """Digits of an element."""
        return self.planes.shape[0]

    @property
    def bits(self) -> int:
        """Binary places behind the point."""
        return 8 * self.digits - 2


@triton.jit
def field_of(x):
    """Exponent fields of float32 values."""
    return (x.to(tl.int32, bitcast=True) >> 23) & 0xFF


@triton.jit
def exponent_of(field):
    """The exponent of a vector whose largest exponent field is given."""
    return tl.where(field == 255, NOT_FINITE, field - 126)


@triton.jit
def shifted(mantissa, shift):
    """round(mantissa * 2^-shift), ties to even, of mantissas below 2^24 and shifts from -1 on."""
    wide = mantissa << 2
    by = tl.minimum(shift + 2, 28)
    half = (tl.zeros_like(by) + 1) << (by - 1)
    return (wide + half - 1 + ((wide >> by) & 1)) >> by


@triton.jit
def fix(x, exponent, digits: tl.constexpr):
    """Integers of float32 values relative to their vector's exponent: int32."""
    bits = x.to(tl.int32, bitcast=True)
    field = (bits >> 23) & 0xFF
    mantissa = tl.where(field == 0, 0, (bits & 0x7FFFFF) | 0x800000)
    size = shifted(mantissa, 152 - 8 * digits + exponent - field)
    return tl.where(bits < 0, -size, size)


@triton.jit
def digit(x, place: tl.constexpr):
    """One digit of integers: int8."""
    for _ in tl.static_range(place):
        x = (x + 128) >> 8
    return (((x + 128) & 255) - 128).to(tl.int8)


@triton.jit
def square_sum(whole, axis: tl.constexpr):
    """Sums of squares, in two limbs, of up to 2^17 - 1 integers of three digits along an axis.

    Products of two digits are at most 2^14, so int32 holds their sums. The largest comes last:
    until then the number is far below 2^61.
    """
    d0 = digit(whole, 0).to(tl.int32)
    d1 = digit(whole, 1).to(tl.int32)
    d2 = digit(whole, 2).to(tl.int32)
    first = tl.sum(d0 * d0, axis)
    high, low = add_word(tl.zeros_like(first), tl.zeros_like(first), first)
    high, low = add_word(high, low, tl.sum(d0 * d1, axis), 9)
    high, low = add_word(high, low, tl.sum(d1 * d1, axis), 16)
    high, low = add_word(high, low, tl.sum(d0 * d2, axis), 17)
    high, low = add_word(high, low, tl.sum(d1 * d2, axis), 25)
    return add_word(high, low, tl.sum(d2 * d2, axis), 32)


@triton.jit
def add_products(a0, a1, a2, b0, b1, b2, s0, s1, s2, s3, s4, digits: tl.constexpr):
    """Add the products of three digits a and two or three digits b to their sums by weight."""
    s0 = tl.dot(a0, b0, s0, out_dtype=tl.int32)
    s1 = tl.dot(a0, b1, s1, out_dtype=tl.int32)
    s1 = tl.dot(a1, b0, s1, out_dtype=tl.int32)
    s2 = tl.dot(a1, b1, s2, out_dtype=tl.int32)
    s2 = tl.dot(a2, b0, s2, out_dtype=tl.int32)
    s3 = tl.dot(a2, b1, s3, out_dtype=tl.int32)
    if digits == 3:
        s2 = tl.dot(a0, b2, s2, out_dtype=tl.int32)
        s3 = tl.dot(a1, b2, s3, out_dtype=tl.int32)
        s4 = tl.dot(a2, b2, s4, out_dtype=tl.int32)
    return s0, s1, s2, s3, s4


@triton.jit
def valued(high, low, x_exponent, y_exponent, digits: tl.constexpr):
    """Sums of products as float32: one rounding, then a power of two; NaN where due."""
    broken = (x_exponent == NOT_FINITE) | (y_exponent == NOT_FINITE)
    value = scaled(to_float(high, low), x_exponent + y_exponent - (20 + 8 * digits))
    return tl.where(broken, float("nan"), value)


@triton.jit
def largest_exponents(start, inside, width, rows: tl.constexpr, block: tl.constexpr):
    """Exponents [rows] of rows of `width` values at pointers `start` [rows, 1]."""
    largest = tl.zeros([rows, block], tl.int32)
    for begin in range(0, width, block):
        column = begin + tl.arange(0, block)
        mask = inside[:, None] & (column < width)[None, :]
        value = widen(tl.load(start + column[None, :], mask=mask, other=0.0))
        largest = tl.maximum(largest, field_of(value))
    return exponent_of(tl.max(largest, 1))


@triton.jit
def exponents_kernel(
    first,
    x,
    exponents,
    count,
    width,
    stride,
    rows: tl.constexpr,
    block: tl.constexpr,
):
    """Exponents [count] of rows x [count, width]."""
    row = (tl.program_id(0) + first) * rows + tl.arange(0, rows)
    inside = row < count
    start = x + row.to(tl.int64)[:, None] * stride
    found = largest_exponents(start, inside, width, rows, block)
    tl.store(exponents + row, found, mask=inside)


@triton.jit
def cut_kernel(
    first,
    x,
    exponents,
    planes,
    count,
    width,
    stride,
    plane,
    known: tl.constexpr,
    digits: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
):
    """Digit planes [digits, count, width] of rows x [count, width].

    Relative to known exponents, or to the rows' own, which are written. A second pass over rows
    that were just read costs less than a second launch.
    """
    row = (tl.program_id(0) + first) * rows + tl.arange(0, rows)
    inside = row < count
    at = row.to(tl.int64)[:, None]
    start = x + at * stride
    if known:
        exponent = tl.load(exponents + row, mask=inside, other=0)
    else:
        exponent = largest_exponents(start, inside, width, rows, block)
        tl.store(exponents + row, exponent, mask=inside)
    for begin in range(0, width, block):
        column = begin + tl.arange(0, block)
        mask = inside[:, None] & (column < width)[None, :]
        value = widen(tl.load(start + column[None, :], mask=mask, other=0.0))
        whole = fix(value, exponent[:, None], digits)
        out = planes + at * width + column[None, :]
        for place in tl.static_range(digits):
            tl.store(out + place * plane, digit(whole, place), mask=mask)


def exponents_of(x: Tensor, target: Target) -> Tensor:
    """Exponents [rows] int32 of the rows of x [rows, K], float32 or bfloat16."""
    count, width = x.shape
    out = torch.empty(count, dtype=torch.int32, device=x.device)
    tile = target.tile("exponents")
    programs = tiles_of(count, tile.sizes["rows"])
    arguments = (x, out, count, width, x.stride(0))
    block = tile.fitted("block", width)
    target.launch(exponents_kernel, programs, *arguments, tile="exponents", block=block)
    return out


def cut(
    x: Tensor, target: Target, digits: int | None = None, exponents: Tensor | None = None
) -> Digits:
    """Rows of x [rows, K] as digits: by default as many as its dtype has as a weight.

    Parts of longer rows take the whole rows' `exponents`.
    """
    count, width = x.shape
    digits = digits or digits_of(x.dtype)
    known = exponents is not None
    if exponents is None:
        exponents = torch.empty(count, dtype=torch.int32, device=x.device)
    planes = torch.empty(digits, count, width, dtype=torch.int8, device=x.device)
    tile = target.tile("cut")
    programs = tiles_of(count, tile.sizes["rows"])
    arguments = (x, exponents, planes, count, width, x.stride(0), count * width)
    constants = {"known": known, "digits": digits, "block": tile.fitted("block", width)}
    target.launch(cut_kernel, programs, *arguments, tile="cut", **constants)
    return Digits(planes, exponents)
