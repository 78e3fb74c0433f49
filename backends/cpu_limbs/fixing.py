"""Vectors as digits of base 256 times a power of two, and exact sums of their products.

A product of two vectors is a sum of products of int8 digits for each pair of digit places, which
an int32 holds: at most 2^14 * 131,071. The pairs are then added in limbs, since three of them at
one place would not fit.

Sums of products of digits are taken in float32, 1024 products at a time: the products are below
2^14, so every partial sum is at most 2^24 and exact, in any order and with or without fused
multiply-add. A chip with int8 matrix units needs no such blocks; one with bfloat16 matrix units
and float32 sums computes exactly this way, for a digit is exact in bfloat16.
"""

from dataclasses import dataclass

import numpy as np

from glm5_hal.backends.cpu_limbs import floats, integers
from glm5_hal.backends.cpu_limbs.arrays import Bool, Digit, Float, Int
from glm5_hal.errors import ContractError

LONGEST = (1 << 17) - 1
"""Most products in one sum: 2^14 times as much must stay below 2^31."""
ACTIVATION_DIGITS = 3
SMALLEST_EXPONENT = -126
"""Of a vector without normal numbers."""

_BLOCK = 1024


def places(digits: int) -> int:
    """Binary places behind the point of vectors of so many digits."""
    return 8 * digits - 2


@dataclass(frozen=True)
class Fixed:
    """Vectors: the sum of digits[i] * 256^i, times 2^(exponent - places).

    Attributes:
        digits: [..., n, V, K] int8: n digits of V vectors of length K, lowest first.
        exponent: [..., V] int32.
        finite: [..., V] bool; where not, the vector held NaN or Inf and its digits are 0.
    """

    digits: Digit
    exponent: Int
    finite: Bool

    @property
    def places(self) -> int:
        """Binary places behind the point."""
        return places(self.digits.shape[-3])

    def __getitem__(self, index: int) -> "Fixed":
        """The vectors of one head or expert."""
        return Fixed(self.digits[index], self.exponent[index], self.finite[index])


def exponents(bits: Int) -> tuple[Int, Bool]:
    """(exponent, finite), each [...], of the float32 vectors [..., K] with these bits.

    The exponent is the smallest with all magnitudes below 2^exponent; subnormal values count as
    zero, and so does a vector that is not finite.
    """
    field = (bits >> 23) & 0xFF
    finite = (field != 0xFF).all(-1)
    largest = field.max(-1, initial=0)
    return np.where(finite, largest, 0).astype(np.int32) + SMALLEST_EXPONENT, finite


def whole_numbers(bits: Int, exponent: Int, finite: Bool, digits: int) -> Int:
    """round(x * 2^(places - exponent)) of vectors [..., K], int32, ties to even.

    The exponents [...] may be larger than the vectors' own: those of longer vectors that they are
    pieces of.
    """
    field = (bits >> 23) & 0xFF
    mantissa = np.where(field == 0, 0, (bits & 0x7FFFFF) | 0x800000)
    mantissa = np.where(finite[..., None], mantissa, 0)
    shift = exponent[..., None] - field + (150 - places(digits))
    magnitude = integers.shift_to_even(mantissa, np.minimum(shift, 26))  # 25 leave nothing
    return np.where(bits < 0, -magnitude, magnitude)


def cut(numbers: Int, digits: int) -> Digit:
    """Balanced digits of numbers [..., V, K] of at most 2^(8 digits - 2): [..., n, V, K] int8."""
    found = []
    rest = numbers
    for _ in range(digits - 1):
        digit = ((rest + 128) & 0xFF) - 128
        found.append(digit.astype(np.int8))
        rest = (rest - digit) >> 8
    return np.stack((*found, rest.astype(np.int8)), axis=-3)


def fix(x: Float, digits: int) -> Fixed:
    """Vectors [..., V, K], each relative to its own largest magnitude."""
    bits = x.view(np.int32)
    exponent, finite = exponents(bits)
    return Fixed(cut(whole_numbers(bits, exponent, finite, digits), digits), exponent, finite)


def sums(x: Digit, y: Digit) -> Int:
    """Sums over k of X[m, k] * Y[n, k] for digits [..., i, M, K] and [..., j, N, K].

    Returns:
        [4, ..., M, N] limbs, carried.

    Raises:
        ContractError: more products than int32 can sum digit by digit.
    """
    *batch, upper, rows, length = x.shape
    lower, columns = y.shape[-3:-1]
    check_length(length)
    pairs = np.zeros((*batch, upper * rows, lower * columns), np.int32)
    for start in range(0, length, _BLOCK):
        left, right = (_flat(d[..., start : start + _BLOCK]) for d in (x, y))
        pairs += (left @ right.swapaxes(-1, -2)).astype(np.int32)
    by_digit = pairs.reshape(*batch, upper, rows, lower, columns)
    out = integers.zero(integers.SUM_LIMBS, (*batch, rows, columns))
    for i in range(upper):
        for j in range(lower):
            integers.add(out, by_digit[..., i, :, j, :], 8 * (i + j))
    return integers.carried(out)


def square_sums(digits: Digit) -> Int:
    """Sums over k of X[m, k]^2 for digits [..., n, M, K]: [4, ..., M] limbs, carried."""
    *batch, count, rows, length = digits.shape
    check_length(length)
    wide = digits.astype(np.int32)
    out = integers.zero(integers.SUM_LIMBS, (*batch, rows))
    for i in range(count):
        for j in range(count):
            product = wide[..., i, :, :] * wide[..., j, :, :]
            integers.add(out, product.sum(-1, dtype=np.int32), 8 * (i + j))
    return integers.carried(out)


def product(x: Fixed, y: Fixed) -> Float:
    """x [..., M, K] times y [..., N, K]: [..., M, N], each sum rounded once, then scaled.

    NaN where either vector held NaN or Inf.
    """
    scale = x.exponent[..., :, None] + y.exponent[..., None, :] - np.int32(x.places + y.places)
    finite = x.finite[..., :, None] & y.finite[..., None, :]
    return scaled_sums(sums(x.digits, y.digits), scale, finite)


def scaled_sums(number: Int, scale: Int, finite: Bool) -> Float:
    """Limbs [4, ...] rounded to float32, times 2^scale; results below 2^-100 are +0."""
    negative, mantissa, exponent = integers.rounded(number)
    value = floats.write(floats.joined(negative, mantissa, exponent + scale))
    return floats.nan_unless(finite, value)


def check_length(length: int) -> None:
    """Raise ContractError where a sum has more products than the exact profile is defined for."""
    if length > LONGEST:
        raise ContractError(
            f"a sum of {length:,} products; the exact profile is defined to {LONGEST:,}"
        )


def _flat(digits: Digit) -> Float:
    """Digits [..., n, V, K] as vectors of their own, [..., n V, K] float32."""
    *batch, count, vectors, length = digits.shape
    return digits.astype(np.float32).reshape(*batch, count * vectors, length)
