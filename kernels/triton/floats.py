"""float32 elements: thresholds, conversions and functions, as fixed sequences of operations.

What stands here is `glm5_hal.exact.elementwise` operation by operation. Conversions between
bfloat16 and float32 are integer operations, because chips differ in what they make of NaN, and
powers of two are added to exponent fields, because chips differ in what they make of small numbers.
"""

import triton
import triton.language as tl

from glm5_hal.exact import elementwise

READ = tl.constexpr(elementwise.READ)
WRITE = tl.constexpr(elementwise.WRITE)
INFINITY = tl.constexpr(float("inf"))
SIGN = tl.constexpr(-(1 << 31))

LOWEST_EXP = tl.constexpr(elementwise.LOWEST_EXP)
LOG2_E = tl.constexpr(elementwise.LOG2_E)
LN_2_HIGH = tl.constexpr(elementwise.LN_2_HIGH)
LN_2_LOW = tl.constexpr(elementwise.LN_2_LOW)

EXP_0, EXP_1, EXP_2, EXP_3, EXP_4, EXP_5 = map(tl.constexpr, elementwise.EXP)
EXP2_0, EXP2_1, EXP2_2, EXP2_3, EXP2_4, EXP2_5 = map(tl.constexpr, elementwise.EXP2)

ROUNDER = tl.constexpr(1.5 * 2.0**23)
"""Added to a float32 below 2^22 it leaves the nearest integer, ties to even, in the low bits."""
ROUNDER_BITS = tl.constexpr(0x4B400000)


@triton.jit
def bits_of(x):
    """The bits of float32 values: int32."""
    return x.to(tl.int32, bitcast=True)


@triton.jit
def float_of(bits):
    """float32 values of int32 bits."""
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def picked(x, chosen, axis: tl.constexpr):
    """The only element of float32 values along an axis that is chosen; +0 where none is.

    Its bits are added to zeros: a sum of integers, which no compiler reads as a sum of floats.
    """
    return float_of(tl.sum(tl.where(chosen, bits_of(x), 0), axis))


@triton.jit
def widen(x):
    """Float32 of bfloat16 or float32."""
    wide = x
    if x.dtype == tl.bfloat16:
        bits = x.to(tl.int16, bitcast=True).to(tl.int32) << 16
        wide = bits.to(tl.float32, bitcast=True)
    return wide


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """float32 as `dtype`, float32 or bfloat16: to nearest, ties to even; one NaN."""
    result = tl.where(x != x, float("nan"), x)
    if dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        bits = tl.where(x != x, 0x7FC0, bits)
        result = bits.to(tl.int16).to(tl.bfloat16, bitcast=True)
    return result


@triton.jit
def read(x):
    """An operand of elementwise operations: magnitudes below 2^-50 are +0."""
    return tl.where(tl.abs(x) < READ, 0.0, x)


@triton.jit
def write(x, dtype: tl.constexpr):
    """A float32 result in `dtype`: magnitudes below 2^-100 are +0."""
    return narrow(tl.where(tl.abs(x) < WRITE, 0.0, x), dtype)


@triton.jit
def scaled(x, exponent):
    """x * 2^exponent, as `write` would leave it, of normal numbers and zeros."""
    bits = x.to(tl.int32, bitcast=True)
    field = ((bits >> 23) & 0xFF) + exponent
    moved = (bits + (exponent << 23)).to(tl.float32, bitcast=True)
    infinite = tl.where(bits < 0, -INFINITY, INFINITY)
    moved = tl.where(field > 254, infinite, moved)
    return tl.where((x == 0.0) | (field < 27), 0.0, moved)


@triton.jit
def raised(x, exponent):
    """x * 2^exponent, +0 below 2^-126, of normal numbers and zeros, where nothing overflows.

    As in the rounding to a subnormal, the largest number below 2^-126 becomes 2^-126.
    """
    bits = x.to(tl.int32, bitcast=True)
    field = ((bits >> 23) & 0xFF) + exponent
    moved = (bits + (exponent << 23)).to(tl.float32, bitcast=True)
    edge = (field == 0) & ((bits & 0x7FFFFF) == 0x7FFFFF)
    least = ((bits & SIGN) | 0x00800000).to(tl.float32, bitcast=True)
    moved = tl.where(edge, least, moved)
    return tl.where((x == 0.0) | ((field < 1) & (edge == 0)), 0.0, moved)


@triton.jit
def polynomial(
    x,
    c0: tl.constexpr,
    c1: tl.constexpr,
    c2: tl.constexpr,
    c3: tl.constexpr,
    c4: tl.constexpr,
    c5: tl.constexpr,
):
    """1 + x * (c0 + x * (c1 + ...)), a product and a sum at a time."""
    total = x * c5 + c4
    total = total * x + c3
    total = total * x + c2
    total = total * x + c1
    total = total * x + c0
    return total * x + 1.0


@triton.jit
def exp2_fraction(f):
    """2^f of f in [-1/2, 1/2]."""
    return polynomial(f, EXP2_0, EXP2_1, EXP2_2, EXP2_3, EXP2_4, EXP2_5)


@triton.jit
def exp(x):
    """e^x of x <= 0; +0 below -80."""
    inside = tl.where(x < LOWEST_EXP, 0.0, x)
    shifted = inside * LOG2_E + ROUNDER
    whole = shifted - ROUNDER
    power = shifted.to(tl.int32, bitcast=True) - ROUNDER_BITS
    rest = (inside - whole * LN_2_HIGH) - whole * LN_2_LOW
    value = polynomial(rest, EXP_0, EXP_1, EXP_2, EXP_3, EXP_4, EXP_5)
    value = (value.to(tl.int32, bitcast=True) + (power << 23)).to(tl.float32, bitcast=True)
    return tl.where(x != x, float("nan"), tl.where(x < LOWEST_EXP, 0.0, value))


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x)."""
    small = exp(-tl.abs(x))
    large = tl.math.div_rn(1.0, small + 1.0)
    return tl.where(x >= 0.0, large, small * large)


@triton.jit
def order_key(x):
    """int32 that orders float32 as top-k does: -0 equals +0, NaN above +Inf."""
    bits = x.to(tl.int32, bitcast=True)
    bits = tl.where(bits == SIGN, 0, bits)
    key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return tl.where(x != x, 0x7FFFFFFF, key)
