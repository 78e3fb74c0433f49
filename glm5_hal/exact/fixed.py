"""Fixed point relative to a power of two of the vector, exact sums of products, one rounding.

A vector of n digits has |X| <= 2^(8n - 2), which balanced digits of base 256 hold in int8: the
lower ones in [-128, 127], the top one in [-64, 64]. A sum of products of digits stays below
2^14 * K, so int32 holds it for K < 2^17. The whole sum stays below 2^36 * K for 3 and 2 digits:
float64 holds it for K <= 2^17, and one float64 matrix product gives it exactly in any order,
with or without fused multiply-add.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from glm5_hal.errors import ContractError
from glm5_hal.exact.elementwise import power, write

ACTIVATION_DIGITS = 3
LONGEST = (1 << 17) - 1
"""Most products in one sum: 2^14 times as much must stay below 2^31."""

_FLOAT64_BITS = 53


def digits_of(dtype: torch.dtype) -> int:
    """Digits of weights and cached rows: 2 for bfloat16, 3 for float32."""
    return 2 if dtype == torch.bfloat16 else 3


@dataclass(frozen=True)
class Fixed:
    """Vectors as integers times a power of two: x is integers * 2^(exponent - bits).

    Attributes:
        integers: [..., K] float64, whole numbers.
        exponent: [...] int64.
        finite: [...] bool; where not, the vector held NaN or Inf and its integers are zero.
        digits: how many int8 digits hold an integer.
    """

    integers: Tensor
    exponent: Tensor
    finite: Tensor
    digits: int

    @property
    def bits(self) -> int:
        """Binary places behind the point."""
        return 8 * self.digits - 2


def fixed(x: Tensor, digits: int, exponent: Tensor | None = None) -> Fixed:
    """Vectors along the last dimension, each relative to its largest magnitude.

    The exponent e is the smallest with all |x| < 2^e, read from the exponent bits; subnormal
    values count as zero, and a vector of zeros has e = -126. Integers are x * 2^(bits - e), rounded
    to nearest, ties to even. Parts of longer vectors take the whole vector's `exponent`.
    """
    wide = x.float()
    field = (wide.view(torch.int32) >> 23) & 0xFF
    finite = (field != 0xFF).all(-1)
    wide = torch.where((field == 0) | ~finite.unsqueeze(-1), 0.0, wide)
    if exponent is None:
        largest = torch.where(wide == 0, 0, field).amax(-1) if x.shape[-1] else field.sum(-1)
        exponent = largest - 126
    exponent = exponent.long()
    bits = 8 * digits - 2
    integers = torch.round(wide.double() * power(bits - exponent).unsqueeze(-1))
    return Fixed(integers, exponent, finite, digits)


def exact_sums(x: Fixed, y: Fixed) -> Tensor:
    """Sums over k of X[m, k] * Y[n, k]: [..., M, N] int64.

    Raises:
        ContractError: more products than int32 can sum digit by digit.
    """
    length = _length(x)
    if x.bits + y.bits + length.bit_length() <= _FLOAT64_BITS:
        return (x.integers @ y.integers.mT).long()
    high = torch.round(y.integers / 256)
    low = y.integers - 256 * high
    upper, lower = ((x.integers @ part.mT).long() for part in (high, low))
    return upper * 256 + lower


def contract(x: Fixed, y: Fixed) -> Tensor:
    """Products [..., M, N] of vectors X [..., M, K] and Y [..., N, K], float32.

    The exact sum, rounded once to 24 bits, times 2^(ex + ey - bits). NaN where either vector held
    NaN or Inf.
    """
    exponent = x.exponent.unsqueeze(-1) + y.exponent.unsqueeze(-2)
    finite = x.finite.unsqueeze(-1) & y.finite.unsqueeze(-2)
    return scaled(exact_sums(x, y), exponent, finite, x.digits, y.digits)


def scaled(sums: Tensor, exponent: Tensor, finite: Tensor, x_digits: int, y_digits: int) -> Tensor:
    """Sums of products as float32 values: one rounding, then a power of two."""
    bits = 8 * (x_digits + y_digits) - 4
    value = sums.float().double() * power(exponent - bits)
    return write(torch.where(finite, value, torch.nan), torch.float32)


def square_sum(x: Fixed) -> Tensor:
    """Sums of squares of the integers, [...] int64: below 2^61 for three digits."""
    _length(x)
    return x.integers.long().square().sum(-1)


def _length(x: Fixed) -> int:
    length = x.integers.shape[-1]
    check_length(length)
    return length


def check_length(length: int) -> None:
    """Refuse sums of more products than int32 can add digit by digit.

    Raises:
        ContractError: more than `LONGEST`.
    """
    if length > LONGEST:
        raise ContractError(
            f"a sum of {length:,} products; the exact profile is defined to {LONGEST:,}"
        )
