"""The exact profile's building blocks as standard operators.

What the standard leaves open is not used: no conversion here rounds. A `Cast` meets only values
that its target holds; every rounding is that of a float32 addition, multiplication, division or
root, or of `Round`, which the standard defines as to nearest, ties to even. Exponents come from
comparisons with a table of powers of two, and powers of two from the same table, so no bit pattern
is ever looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glm5_hal.exact import ACTIVATION_DIGITS, READ, WRITE
from glm5_hal.exact.elementwise import EXP, EXP2, LN_2_HIGH, LN_2_LOW, LOG2_E, LOWEST_EXP
from glm5_hal.kernels.onnx.builder import (
    BF16,
    F32,
    I8,
    I64,
    Number,
    Value,
    concat,
    where,
)

NAN = float("nan")
"""As a float32 constant it has the bits 0x7FC00000."""
LARGEST = float(np.finfo(np.float32).max)
SMALLEST = 2.0**-126
"""Smallest normal float32; also the smallest power in the table."""
BITS = 8 * ACTIVATION_DIGITS - 2
LIMB = 1 << 24

_LOW, _HIGH = -126, 127
_POWERS = np.ldexp(np.float32(1.0), np.arange(_LOW, _HIGH + 1)).astype(np.float32)


def read(x: Value) -> Value:
    """x as an operand of elementwise operations: float32, magnitudes below 2^-50 are +0."""
    wide = x.to(F32)
    return where(wide.abs() < READ, 0.0, wide)


def write(x: Value, dtype: int = F32) -> Value:
    """A float32 result in `dtype`: magnitudes below 2^-100 are +0, every NaN is the same."""
    kept = where(x.abs() < WRITE, 0.0, x)
    kept = where(kept.isnan(), NAN, kept)
    return _halved(kept).to(BF16) if dtype == BF16 else kept


def _halved(x: Value) -> Value:
    """float32 values rounded to the 8 bits of a bfloat16, to nearest, ties to even.

    With p the power of two at or above x, adding p * 2^15 and taking it away again leaves the
    multiples of x's last bfloat16 place: that addition is the rounding. p is found by additions
    too (Rump 2009): (q + x) - q with q = x * 2^24. Large values are scaled first, so that q stays
    finite; subnormal ones do not come here.
    """
    size = x.abs()
    large = size >= 2.0**64
    part = where(large, size * 2.0**-64, size)
    step = part * 2.0**24
    power = ((step + part) - step).abs()
    power = where(power.equals(0.0), part, power)
    rounded = (part + power * 2.0**15) - power * 2.0**15
    rounded = where(large, rounded * 2.0**64, rounded)
    rounded = where(x < 0.0, -rounded, rounded)
    return where(size <= LARGEST, rounded, x)


def power(exponent: Value) -> Value:
    """2^exponent, float32, for int64 exponents in [-126, 127]."""
    return exponent.graph.constant(_POWERS).gather(exponent - _LOW)


def scale(x: Value, exponent: Value) -> Value:
    """x * 2^exponent for any exponent: +-0 or infinite where it is far out of range.

    In two steps, as either may be beyond float32. Both are exact unless the result is below
    2^-126 or infinite.
    """
    first = exponent.clip(_LOW, _HIGH)
    second = (exponent - first).clip(_LOW, _HIGH)
    return (x * power(first)) * power(second)


@dataclass(frozen=True)
class Fixed:
    """Vectors as integers times a power of two: x is integers * 2^(exponent - bits).

    Attributes:
        integers: [..., K] float32, whole numbers; zero where the vector held NaN or Inf.
        exponent: [...] int64.
        finite: [...] bool.
        digits: how many int8 digits hold an integer.
    """

    integers: Value
    exponent: Value
    finite: Value
    digits: int

    @property
    def bits(self) -> int:
        """Binary places behind the point."""
        return 8 * self.digits - 2

    def _digits(self) -> list[Value]:
        """Balanced digits of base 256, lowest first: float32 [..., K] each.

        All of it is exact in float32: |integers| + 128 stays below 2^24.
        """
        rest, parts = self.integers, []
        for _ in range(self.digits - 1):
            upper = ((rest + 128.0) * 2.0**-8).floor()
            parts.append(rest - upper * 256.0)
            rest = upper
        return [*parts, rest]

    def cut(self) -> Value:
        """Digits for the right-hand side of products: [digits, ..., K] int8."""
        return concat(*(part.to(I8).unsqueeze(0) for part in self._digits()), axis=0)

    def rows(self) -> Value:
        """Digits of vectors [..., M, K] for the left-hand side: [..., digits * M, K] bytes.

        One below the other, so that they are one product with every digit of the other side.
        """
        return concat(*(part.digits() for part in self._digits()), axis=-2)


@dataclass(frozen=True)
class Columns:
    """The right-hand side of exact products.

    Attributes:
        digits: [n, ..., K, N] int8.
        exponent: [..., N] int64.
        finite: [..., N] bool.
        count: n.
    """

    digits: Value
    exponent: Value
    finite: Value
    count: int

    @classmethod
    def of(cls, x: Fixed, rank: int) -> Columns:
        """Vectors [..., N, K] of `rank` dimensions as columns."""
        swapped = (*range(rank - 1), rank, rank - 1)
        return cls(x.cut().transpose(*swapped), x.exponent, x.finite, x.digits)


def fixed(
    x: Value, digits: int, exponent: Value | None = None, axes: Sequence[int] = (-1,)
) -> Fixed:
    """Vectors along the last axis (or `axes`), each relative to its largest magnitude.

    The exponent is counted: -126 plus the number of powers of two, from 2^-126 on, that do not
    exceed the largest magnitude. Subnormal values count as zero.
    """
    wide = x.to(F32)
    size = wide.abs()
    finite = ~(~(size <= LARGEST)).any(*axes)
    kept = (size >= SMALLEST) & finite.unsqueeze(*axes)
    wide = where(kept, wide, 0.0)
    if exponent is None:
        largest = wide.abs().max(*axes)
        reached = largest.unsqueeze(-1) >= x.graph.constant(_POWERS)
        exponent = reached.to(I64).sum(-1) + _LOW
    bits = 8 * digits - 2
    integers = scale(wide, (bits - exponent).unsqueeze(*axes)).round()
    return Fixed(integers, exponent, finite, digits)


def exact_sums(x: Fixed, y: Columns, rank: int) -> Value:
    """Sums over k of X[..., m, k] * Y[..., k, n]: int64 [..., M, N] of `rank` dimensions."""
    return paired(x, y.digits, y.count, rank)


def paired(x: Fixed, y: Value, y_digits: int, rank: int) -> Value:
    """`exact_sums` with digits [y_digits, ..., K, N].

    All pairs of digits are one matrix product of bytes with int32 sums, [y_digits, ...,
    digits * M, N]; they are put together in int64.
    """
    pairs, rows = x.rows() @ y, x.integers.size(-2)
    terms = []
    for place in range(x.digits):
        part = pairs.slice(rows * place, rows * (place + 1), -2).to(I64)
        weights = 256 ** (place + np.arange(y_digits)).reshape(y_digits, *(1,) * rank)
        terms.append((part * pairs.graph.constant(weights.astype(np.int64))).sum(0))
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def rounded(sums: Value) -> Value:
    """Integers below 2^61 in magnitude as the nearest float32, ties to even.

    One float32 addition of two numbers of 24 bits is the rounding. Above 2^47 the lower 16 bits
    are first replaced by one that tells whether any was set: far below the last place, it decides
    as they would have.
    """
    size = sums.abs()
    large = size >= 1 << 47
    upper = size / (1 << 16)
    sticky = upper | (size > upper * (1 << 16)).to(I64)
    part = where(large, sticky, size)
    high = part / LIMB
    value = high.to(F32) * float(LIMB) + (part - high * LIMB).to(F32)
    value = where(large, value * 2.0**16, value)
    return where(sums < 0, -value, value)


def scaled(sums: Value, exponent: Value, finite: Value, bits: int) -> Value:
    """Sums of products as float32 values: one rounding, then a power of two."""
    value = scale(rounded(sums), exponent - bits)
    return write(where(finite, value, NAN))


def contract(x: Fixed, y: Columns, rank: int) -> Value:
    """Products of vectors [..., M, K] with columns [..., K, N]: float32 [..., M, N]."""
    exponent = x.exponent.unsqueeze(-1) + y.exponent.unsqueeze(-2)
    finite = x.finite.unsqueeze(-1) & y.finite.unsqueeze(-2)
    bits = x.bits + 8 * y.count - 2
    return scaled(exact_sums(x, y, rank), exponent, finite, bits)


def square_sum(x: Fixed) -> Value:
    """Sums of squares of the integers: int64 [...], below 2^61 for three digits."""
    whole = x.integers.to(I64)
    return (whole * whole).sum(-1)


def _polynomial(x: Value, coefficients: Sequence[float]) -> Value:
    """1 + x * (c[0] + x * (c[1] + ...)), each operation a node of its own."""
    total: Value | Number = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        total = x * total + coefficient
    return x * total + 1.0


def exp2_fraction(f: Value) -> Value:
    """2^f for float32 f in [-1/2, 1/2]."""
    return _polynomial(f, EXP2)


def exp(x: Value) -> Value:
    """e^x for float32 x <= 0; +0 below -80. NaN stays NaN."""
    low = x < LOWEST_EXP
    inside = where(low, 0.0, x)
    whole = (inside * LOG2_E).round()
    rest = (inside - whole * LN_2_HIGH) - whole * LN_2_LOW
    # NaN has no integer
    exponent = where(whole.isnan(), 0.0, whole).to(I64)
    return where(low, 0.0, _polynomial(rest, EXP) * power(exponent))


def sigmoid(x: Value) -> Value:
    """1 / (1 + e^-x) of float32 x, by the exponential of -|x|."""
    small = exp(-x.abs())
    large = 1.0 / (small + 1.0)
    return where(x >= 0.0, large, small * large)


def width(x: Value, axis: int = -1) -> Value:
    """A dimension as float32 [1]."""
    return x.size(axis).to(F32)
