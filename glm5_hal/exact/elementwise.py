"""Elementwise functions as fixed sequences of float32 multiplications, additions and divisions.

Each operation rounds to nearest, ties to even, and none is contracted. Chips that flush subnormal
numbers and chips that do not agree, because none can arise where it matters: operands below
`READ` count as zero, so that a product of two is zero or at least 2^-100 and sums of such products
are multiples of 2^-123; results below `WRITE` are zero.
"""

import numpy as np
import torch
from torch import Tensor

READ = 2.0**-50
"""Operands of elementwise operations below this read as +0."""
WRITE = 2.0**-100
"""Results below this are +0."""

_NAN_BITS = {
    torch.float32: np.int32(0x7FC00000),
    torch.bfloat16: np.int16(0x7FC0),
}

LOWEST_EXP = -80.0
"""exp is +0 below this."""

LOG2_E = float.fromhex("0x1.715476p+0")
LN_2_HIGH = float.fromhex("0x1.62e400p-1")
"""The upper 16 bits of ln 2: times an integer below 256 it is exact."""
LN_2_LOW = float.fromhex("0x1.7f7d1cp-20")

EXP2 = tuple(
    map(
        float.fromhex,
        (
            "0x1.62e430p-1",
            "0x1.ebfbdcp-3",
            "0x1.c6af7ap-5",
            "0x1.3b2dd2p-7",
            "0x1.5f094ap-10",
            "0x1.417abap-13",
        ),
    )
)
"""Of (2^f - 1) / f on [-1/2, 1/2], lowest power first; minimax to 2^-28, rounded one by one."""
EXP = tuple(
    map(
        float.fromhex,
        (
            "0x1.000000p+0",
            "0x1.fffffcp-2",
            "0x1.555492p-3",
            "0x1.5558b0p-5",
            "0x1.12398ap-7",
            "0x1.6a4d6ep-10",
        ),
    )
)
"""Of (e^r - 1) / r on [-0.3467, 0.3467], likewise."""


def read(x: Tensor) -> Tensor:
    """x as an operand of elementwise operations: float32, magnitudes below 2^-50 are +0."""
    wide = x.float()
    return torch.where(wide.abs() < READ, 0.0, wide)


def write(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A result in `dtype`: magnitudes below 2^-100 are +0, NaN is 0x7FC00000 or 0x7FC0.

    x is float32, or float64 holding a float32 value with a wider exponent: beyond the range of
    float32 it is infinite.
    """
    return rounded(torch.where(x.abs() < WRITE, 0.0, x).float(), dtype)


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 x in `dtype`, to nearest, ties to even, with the one bit pattern of NaN.

    torch's vectorised conversion gives a bfloat16 NaN other bits than its scalar one.
    """
    bits = torch.tensor(_NAN_BITS[dtype], device=x.device).view(dtype)
    return torch.where(x.isnan(), bits, x.to(dtype))


def power(exponent: Tensor) -> Tensor:
    """2^exponent, float64, for integers in [-1022, 1023]."""
    return ((exponent.long() + 1023) << 52).view(torch.float64)


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """1 + x * (c[0] + x * (c[1] + ...)), float32."""
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total * x + 1.0


def exp2_fraction(f: Tensor) -> Tensor:
    """2^f for float32 f in [-1/2, 1/2]: in [0.7071, 1.4143]."""
    return _polynomial(f, EXP2)


def exp(x: Tensor) -> Tensor:
    """e^x for float32 x <= 0; +0 below -80. NaN stays NaN."""
    inside = torch.where(x < LOWEST_EXP, 0.0, x)
    whole = torch.round(inside * LOG2_E)
    rest = (inside - whole * LN_2_HIGH) - whole * LN_2_LOW
    value = _polynomial(rest, EXP).double() * power(whole.nan_to_num())
    return torch.where(x < LOWEST_EXP, 0.0, value.float())


def divide(a: Tensor, b: Tensor) -> Tensor:
    """The float32 nearest to a / b."""
    return a / b


def square_root(x: Tensor) -> Tensor:
    """The float32 nearest to the root of x.

    torch's own float32 root is off by one unit for some inputs on some builds. A root of 24 bits
    lies at least 2^-51 from a midpoint, so a float64 one rounds as the exact one does.
    """
    return torch.sqrt(x.double()).float()


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x) of float32 x, by the exponential of -|x|."""
    small = exp(-x.abs())
    large = divide(torch.ones_like(x), small + 1.0)
    return torch.where(x >= 0, large, small * large)
