"""Whole numbers longer than 32 bits as limbs of 16, in int32 arithmetic.

A number is an int32 array [limbs, ...], lowest limb first: the sum of limb i times 2^(16 i). It is
carried when all limbs but the last lie in [0, 65535]; the last one has the sign. Between two
carries a limb may hold anything an int32 holds, so that many additions need one pass of carries.
"""

from collections.abc import Sequence

import numpy as np

from glm5_hal.backends.cpu_limbs.arrays import Bool, Float, Int
from glm5_hal.errors import ContractError

LIMB = 16
"""Bits of a limb."""
SUM_LIMBS = 4
"""Limbs of a sum of products: below 2^61."""

_MASK = (1 << LIMB) - 1
_LONGEST_RUN = 1 << 23


def zero(limbs: int, shape: Sequence[int]) -> Int:
    """Zeros, [limbs, *shape]."""
    return np.zeros((limbs, *shape), np.int32)


def add(number: Int, value: Int, offset: int) -> None:
    """number += value * 2^offset in place, uncarried; `offset` is a multiple of 8.

    A value adds less than 2^24 to a limb, so 64 of them need no carry in between.
    """
    limb, rest = divmod(offset, LIMB)
    number[limb] += (value & (_MASK >> rest)) << rest
    number[limb + 1] += value >> (LIMB - rest)


def carried(number: Int) -> Int:
    """The same number, carried."""
    out = number.copy()
    for limb in range(len(out) - 1):
        out[limb + 1] += out[limb] >> LIMB
        out[limb] &= _MASK
    return out


def times(number: Int, factor: int) -> Int:
    """A carried number >= 0 times a factor in [0, 2^31), carried, with two limbs more."""
    out = zero(len(number) + 2, number.shape[1:])
    for limb, part in enumerate(number):
        for byte in range(4):
            piece = (factor >> (8 * byte)) & 0xFF
            if piece:
                add(out, part * np.int32(piece), LIMB * limb + 8 * byte)
    return carried(out)


def less(a: Int, b: Int) -> Bool:
    """a < b for carried numbers of equally many limbs."""
    negative: Bool = carried(a - b)[-1] < 0
    return negative


def running_sums(values: Int) -> Int:
    """Sums of values[0..i] for values in [0, 2^31): [4, count], carried.

    Raises:
        ContractError: more values than int32 can sum byte by byte.
    """
    if len(values) > _LONGEST_RUN:
        raise ContractError(f"{len(values):,} values to sum; limbs are made for {_LONGEST_RUN:,}")
    out = zero(SUM_LIMBS, values.shape)
    for byte in range(4):
        add(out, np.cumsum((values >> (8 * byte)) & 0xFF, dtype=np.int32), 8 * byte)
    return carried(out)


def total(values: Int) -> Int:
    """Sums along the last dimension of at most 2^23 int32 values: [4, ...], carried."""
    out = zero(SUM_LIMBS, values.shape[:-1])
    for byte in range(4):
        part = values >> (8 * byte)
        part = part if byte == 3 else part & 0xFF  # the highest byte has the sign
        add(out, part.sum(-1, dtype=np.int32), 8 * byte)
    return carried(out)


def shift_to_even(value: Int, shift: Int | int) -> Int:
    """value / 2^shift, ties to even: value in [0, 2^30), shift in [1, 30]."""
    whole: Int = value >> shift
    rest = value & ((np.int32(1) << shift) - 1)
    half = np.int32(1) << (shift - 1)
    up = (rest > half) | ((rest == half) & ((whole & 1) == 1))
    nearest: Int = whole + up.astype(np.int32)
    return nearest


def rounded(number: Int) -> tuple[Bool, Int, Int]:
    """A carried number of four limbs as (negative, mantissa, exponent).

    Its magnitude, to 24 bits and to nearest with ties to even, is mantissa * 2^exponent; the
    mantissa lies in [2^23, 2^24), or is 0 for 0.
    """
    negative = number[-1] < 0
    limbs = carried(np.where(negative, -number, number))
    shift = np.zeros_like(limbs[0])
    for limb in range(1, SUM_LIMBS):  # whole limbs, until the top one is not empty
        empty = limbs[-1] == 0
        limbs = np.where(empty, np.concatenate((np.zeros_like(limbs[:1]), limbs[:-1])), limbs)
        shift = np.where(empty, np.int32(LIMB * limb), shift)
    for step in (8, 4, 2, 1):
        low = limbs[-1] < (1 << (LIMB - step))
        moved = (limbs << step) & _MASK
        moved[1:] |= limbs[:-1] >> (LIMB - step)
        limbs = np.where(low, moved, limbs)
        shift = shift + np.where(low, np.int32(step), np.int32(0))
    kept = (limbs[3] << 10) | (limbs[2] >> 6)  # 24 bits and two more
    sticky = ((limbs[2] & 0x3F) | limbs[1] | limbs[0]) != 0
    mantissa = shift_to_even(kept | sticky.astype(np.int32), 2)
    over = mantissa >> 24
    return negative, mantissa >> over, 40 - shift + over


def order_keys(x: Float) -> Int:
    """int32 keys in the order of the values: -0 equals +0, all NaN are equal and above +Inf."""
    bits = x.view(np.int32)
    magnitude = bits & 0x7FFFFFFF
    keys = np.where(bits < 0, -magnitude, magnitude)
    return np.where(magnitude > 0x7F800000, np.int32(0x7FFFFFFF), keys)
