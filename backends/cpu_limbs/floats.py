"""Float32 functions: additions and multiplications by the machine, everything else on the bits.

A float32 addition or multiplication is rounded to nearest, ties to even, by every chip; numpy
does one at a time and contracts none. Divisions and roots are done digit by digit in int32, so
that nothing depends on how a chip divides.
"""

from collections.abc import Sequence

import numpy as np

from glm5_hal.backends.cpu_limbs import integers
from glm5_hal.backends.cpu_limbs.arrays import Bool, Float, Int

INFINITY = np.int32(0x7F800000)
NAN = np.int32(0x7FC00000)
ONE = np.float32(1.0)

_MAGNITUDE = 0x7FFFFFFF
_SIGN = np.int32(-0x80000000)
_READ = (127 - 50) << 23
"""The bits of 2^-50."""
_WRITE = (127 - 100) << 23
"""The bits of 2^-100."""
_ROUNDER = np.float32(1.5 * 2**23)

_LOG2_E = np.float32(float.fromhex("0x1.715476p+0"))
_LN_2_HIGH = np.float32(float.fromhex("0x1.62e400p-1"))
_LN_2_LOW = np.float32(float.fromhex("0x1.7f7d1cp-20"))
_LOWEST = np.float32(-80.0)


def _constants(*texts: str) -> tuple[np.float32, ...]:
    return tuple(np.float32(float.fromhex(text)) for text in texts)


_EXP2 = _constants(
    *("0x1.62e430p-1", "0x1.ebfbdcp-3", "0x1.c6af7ap-5"),
    *("0x1.3b2dd2p-7", "0x1.5f094ap-10", "0x1.417abap-13"),
)
_EXP = _constants(
    *("0x1.000000p+0", "0x1.fffffcp-2", "0x1.555492p-3"),
    *("0x1.5558b0p-5", "0x1.12398ap-7", "0x1.6a4d6ep-10"),
)


def read(x: Float) -> Float:
    """x as an operand: magnitudes below 2^-50 are +0."""
    bits = x.view(np.int32)
    return np.where((bits & _MAGNITUDE) < _READ, np.int32(0), bits).view(np.float32)


def write(x: Float) -> Float:
    """x as a result: magnitudes below 2^-100 are +0, every NaN is 0x7FC00000."""
    bits = x.view(np.int32)
    magnitude = bits & _MAGNITUDE
    kept = np.where(magnitude < _WRITE, np.int32(0), bits)
    return np.where(magnitude > INFINITY, NAN, kept).view(np.float32)


def is_nan(x: Float) -> Bool:
    """Where x is NaN."""
    return (x.view(np.int32) & _MAGNITUDE) > INFINITY


def is_finite(x: Float) -> Bool:
    """Where x is neither NaN nor infinite."""
    return (x.view(np.int32) & _MAGNITUDE) < INFINITY


def nan_unless(kept: Bool, x: Float) -> Float:
    """x where `kept`, NaN elsewhere."""
    return np.where(kept, x.view(np.int32), NAN).view(np.float32)


def parts(x: Float) -> tuple[Int, Int, Int]:
    """(sign bit, mantissa, exponent): a finite |x| is mantissa * 2^exponent.

    The mantissa lies in [2^23, 2^24), for subnormal numbers too, or is 0 for 0.
    """
    bits = x.view(np.int32)
    field = (bits >> 23) & 0xFF
    mantissa = bits & 0x7FFFFF
    mantissa = np.where(field == 0, mantissa, mantissa | 0x800000)
    exponent = np.maximum(field, 1) - 150
    for step in (16, 8, 4, 2, 1):  # the leading zeros of a subnormal number
        low = mantissa < (1 << (24 - step))
        mantissa = np.where(low, mantissa << step, mantissa)
        exponent = np.where(low, exponent - step, exponent)
    return bits & _SIGN, mantissa, exponent


def joined(negative: Bool, mantissa: Int, exponent: Int) -> Float:
    """mantissa * 2^exponent with a sign, for mantissas of exactly 24 bits or 0.

    Infinite beyond the range of float32, and +0 below 2^-126: whoever calls it drops what is
    below 2^-100 anyway.
    """
    field = exponent + 150
    finite = ((np.clip(field, 1, 254) - 1) << 23) + mantissa
    magnitude = np.where(field > 254, INFINITY, finite)
    sign = np.where(negative, _SIGN, np.int32(0))
    gone = (mantissa == 0) | (field < 1)
    return np.where(gone, np.int32(0), magnitude | sign).view(np.float32)


def scaled(x: Float, exponent: Int) -> Float:
    """x * 2^exponent by its bits; +0 below 2^-126. Inf and NaN stay."""
    sign, mantissa, own = parts(x)
    value = joined(sign < 0, mantissa, own + exponent)
    return np.where(is_finite(x), value, x)


def nearest(number: Int) -> Float:
    """A carried number of four limbs to the nearest float32, ties to even."""
    return joined(*integers.rounded(number))


def _packed(sign: Int, significand: Int, exponent: Int) -> Int:
    """Bits of significand * 2^exponent, rounded: significands in [2^25, 2^26), the last one sticky.

    Subnormal results are rounded once, as everything else.
    """
    field = exponent + (25 + 127)
    shift = np.clip(3 - field, 2, 30)
    kept = integers.shift_to_even(significand, shift)
    # the leading bit of `kept` adds the missing one to the exponent, and so does a carry
    bits = ((np.clip(field, 1, 254) - 1) << 23) + kept
    return np.where(field > 254, INFINITY, bits) | sign


def divide(a: Float | np.float32, b: Float | np.float32) -> Float:
    """The float32 nearest to a / b: long division of the mantissas, 26 bits and a remainder."""
    over, under = np.broadcast_arrays(a, b)
    sign_a, rest, exponent_a = parts(over)
    sign_b, divisor, exponent_b = parts(under)
    sign = sign_a ^ sign_b
    small = rest < divisor
    rest = np.where(small, rest << 1, rest)
    quotient = np.zeros_like(rest)
    for _ in range(26):
        fits = rest >= divisor
        quotient = (quotient << 1) | fits.astype(np.int32)
        rest = np.where(fits, rest - divisor, rest) << 1
    quotient |= (rest != 0).astype(np.int32)
    bits = _packed(sign, quotient, exponent_a - exponent_b - 25 - small.astype(np.int32))
    zero_a, zero_b = ((x.view(np.int32) & _MAGNITUDE) == 0 for x in (over, under))
    far_a, far_b = ~is_finite(over), ~is_finite(under)
    bits = np.where(zero_a | far_b, sign, bits)
    bits = np.where(far_a | zero_b, sign | INFINITY, bits)
    undefined = is_nan(over) | is_nan(under) | (zero_a & zero_b) | (far_a & far_b)
    return np.where(undefined, NAN, bits).view(np.float32)


def square_root(x: Float) -> Float:
    """The float32 nearest to the root of x: digit by digit, 26 bits and a remainder."""
    _, mantissa, exponent = parts(x)
    odd = exponent & 1
    radicand = mantissa << (2 - odd)  # in [2^24, 2^26): its first two bits are not both 0
    root, rest = np.zeros_like(radicand), np.zeros_like(radicand)
    for step in range(26):
        pair = (radicand >> (24 - 2 * step)) & 3 if step < 13 else 0
        rest = (rest << 2) | pair
        trial = (root << 2) | 1
        fits = rest >= trial
        rest = np.where(fits, rest - trial, rest)
        root = (root << 1) | fits.astype(np.int32)
    root |= (rest != 0).astype(np.int32)
    bits = _packed(np.zeros_like(root), root, ((exponent - 2 + odd) >> 1) - 13)
    own = x.view(np.int32)
    bits = np.where((own == INFINITY) | (own & _MAGNITUDE == 0), own, bits)
    undefined = is_nan(x) | ((own < 0) & (own != _SIGN))
    return np.where(undefined, NAN, bits).view(np.float32)


def whole_part(x: Float) -> tuple[Float, Int]:
    """x rounded to an integer, ties to even, for |x| <= 2^22: as float32 and as int32.

    The addition rounds: there is no room for a fraction beside 1.5 * 2^23.
    """
    whole = (x + _ROUNDER) - _ROUNDER
    return whole, whole.astype(np.int32)


def to_integer(x: Float, places: Int | int) -> Int:
    """round(x * 2^places), ties to even, int32; x in [0, 2) and a result below 2^25."""
    _, mantissa, exponent = parts(x)
    shift = np.clip(2 - exponent - places, 1, 30)  # beyond 27 nothing is left
    return integers.shift_to_even(mantissa << 2, shift)


def _polynomial(x: Float, coefficients: Sequence[np.float32]) -> Float:
    """1 + x * (c[0] + x * (c[1] + ...)), every operation rounded."""
    value = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x
        value = value + coefficient
    return value * x + ONE


def exp2_fraction(x: Float) -> Float:
    """2^x for x in [-1/2, 1/2]."""
    return _polynomial(x, _EXP2)


def exp(x: Float) -> Float:
    """e^x for x <= 0: +0 below -80; NaN stays NaN."""
    far = (x < _LOWEST) | is_nan(x)
    inside = np.where(far, np.float32(0), x)
    whole, count = whole_part(inside * _LOG2_E)
    rest = (inside - whole * _LN_2_HIGH) - whole * _LN_2_LOW
    value = scaled(_polynomial(rest, _EXP), count)
    return np.where(is_nan(x), x, np.where(far, np.float32(0), value))


def sigmoid(x: Float) -> Float:
    """1 / (1 + e^-x), by the exponential of -|x|."""
    small = exp(-np.abs(x))
    large = divide(ONE, small + ONE)
    return np.where(x >= 0, large, small * large)
