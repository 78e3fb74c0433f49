"""RoPE tables with bits that this project defines.

A sine from a platform's library differs between platforms in the last bit, and an angle of
200,000 radians makes any shortcut visible. The rule here uses float64 additions and
multiplications only, which are the same everywhere:

1. ``inv_freq[j]`` = 1 / theta^(2j/R): the power, by decimal arithmetic of 50 digits, rounded to
   float32, then its reciprocal rounded to float32 (the two roundings of every published
   implementation; at position 200,000 a unit in the last place is a hundredth of a radian).
2. ``angle`` = position * inv_freq[j], rounded to float32 (as in every published implementation).
3. Quadrant and remainder by a three-part pi/2; Taylor polynomials of degree 17 and 16 in float64;
   rounded to float32.
"""

from decimal import Decimal, localcontext

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

F64 = npt.NDArray[np.float64]

# pi/2 in three parts of 33, 33 and 53 bits: q * part is exact for the first two while q < 2^20
_PI_2 = (
    float.fromhex("0x1.921fb54400000p+0"),
    float.fromhex("0x1.0b4611a600000p-34"),
    float.fromhex("0x1.3198a2e037073p-69"),
)
_TWO_OVER_PI = float.fromhex("0x1.45f306dc9c883p-1")
_MAX_QUADRANT = 1 << 20

_BLOCK = 8192
"""Positions computed at a time."""


def inverse_frequencies(theta: float, width: int) -> npt.NDArray[np.float32]:
    """1 / theta^(2j/width) for j in [0, width / 2), float32."""
    with localcontext() as context:
        context.prec = 50
        base = Decimal(theta)
        powers = [float(base ** (Decimal(2 * j) / Decimal(width))) for j in range(width // 2)]
    return np.float32(1.0) / np.array(powers, dtype=np.float32)


def sine_cosine(angle: F64) -> tuple[F64, F64]:
    """Sine and cosine of angles in [0, 1.6e6], float64, error below 1e-15.

    Raises:
        ValueError: an angle beyond the exact range reduction.
    """
    quadrant = np.rint(angle * _TWO_OVER_PI)
    if quadrant.size and quadrant.max() >= _MAX_QUADRANT:
        raise ValueError(f"angle {angle.max():.0f} is beyond {_MAX_QUADRANT} quarter turns")
    rest = ((angle - quadrant * _PI_2[0]) - quadrant * _PI_2[1]) - quadrant * _PI_2[2]
    square = rest * rest
    sine = rest * _series(square, first=1)
    cosine = _series(square, first=0)
    turn = quadrant.astype(np.int64) & 3
    swapped = (turn & 1).astype(bool)
    sine, cosine = np.where(swapped, cosine, sine), np.where(swapped, sine, cosine)
    return np.where(turn >= 2, -sine, sine), np.where((turn == 1) | (turn == 2), -cosine, cosine)


def _series(square: F64, first: int) -> F64:
    """Sum over n of (-square)^n / (2n + first)!, nine terms, from the smallest up."""
    total = np.zeros_like(square)
    for n in range(8, -1, -1):
        factorial = 1.0
        for i in range(2, 2 * n + first + 1):
            factorial *= i
        total = total * square + (1.0 if n % 2 == 0 else -1.0) / factorial
    return total


def rope_table(theta: float, width: int, positions: int) -> Tensor:
    """Table [positions, width] float32: cosines of the width / 2 angles, then their sines."""
    frequencies = inverse_frequencies(theta, width)
    table = np.empty((positions, width), dtype=np.float32)
    for start in range(0, positions, _BLOCK):
        place = np.arange(start, min(start + _BLOCK, positions), dtype=np.float32)
        angle = (place[:, None] * frequencies).astype(np.float64)  # product rounded to float32
        sine, cosine = sine_cosine(angle)
        table[start : start + _BLOCK, : width // 2] = cosine
        table[start : start + _BLOCK, width // 2 :] = sine
    return torch.from_numpy(table)
