"""Integers of up to 61 bits and a sign as two int32 limbs: high * 2^30 + low, 0 <= low < 2^30.

Some chips compute 64-bit integers in 32 bits without a word, some slowly, some not at all: here
they serve as addresses only. 30 bits leave room for sums: two low limbs and a carry stay below
2^31. Sums of the exact profile have |S| <= 2^44 * K < 2^61 for K < 2^17, so that |high| < 2^31.
No operation overflows, none compares unsigned numbers, and none relies on how a chip rounds.
"""

import triton
import triton.language as tl

from glm5_hal.kernels.triton.floats import SIGN, bits_of, float_of

LOW = tl.constexpr((1 << 30) - 1)
HALF_LOW = tl.constexpr((1 << 15) - 1)
SMALL = tl.constexpr((1 << 12) - 1)


@triton.jit
def carried(high, low):
    """(high, low) of a low limb that may be any int32."""
    return high + (low >> 30), low & LOW


@triton.jit
def added(high, low, more_high, more_low):
    """The sum of two numbers."""
    return carried(high + more_high, low + more_low)


@triton.jit
def add_word(high, low, word, weight: tl.constexpr = 0):
    """A number plus an int32 times 2^weight, weight up to 32."""
    if weight > 30:
        high += word << (weight - 30)
    else:
        high += word >> (30 - weight)
        low += (word & (LOW >> weight)) << weight
    return carried(high, low)


@triton.jit
def at_least(high, low, other_high, other_low):
    """Whether a number is not below another."""
    return (high > other_high) | ((high == other_high) & (low >= other_low))


@triton.jit
def joined(s0, s1, s2, s3, s4):
    """The number whose sums of digit products, by weight 256^i, are given.

    The sums are of at most 2^15 products a pair: |s1| and |s2| <= 2^30, |s4| <= 2^27. What one
    passes to the next is below 2^24.
    """
    s1 += s0 >> 8
    s2 += s1 >> 8
    s3 += s2 >> 8
    low = (s0 & 255) | ((s1 & 255) << 8) | ((s2 & 255) << 16) | ((s3 & 63) << 24)
    return (s3 >> 6) + (s4 << 2), low


@triton.jit
def summed(x, axis: tl.constexpr):
    """The sum of up to 2^17 integers |x| <= 2^24 along an axis: by halves that stay below 2^30."""
    lower = tl.sum(x & SMALL, axis)
    return add_word(tl.zeros_like(lower), lower, tl.sum(x >> 12, axis), 12)


@triton.jit
def multiplied(x, factor):
    """The product of integers |x| <= 2^24 and a factor in [0, 2^17]."""
    lower = (x & SMALL) * factor
    return add_word(tl.zeros_like(lower), lower, (x >> 12) * factor, 12)


@triton.jit
def lanes_summed(high, low, axis: tl.constexpr):
    """The sum of up to 2^15 numbers along an axis."""
    lower = tl.sum(low & HALF_LOW, axis)
    return add_word(tl.sum(high, axis), lower, tl.sum(low >> 15, axis), 15)


@triton.jit
def to_float(high, low):
    """The nearest float32, ties to even, of numbers below 2^61.

    The magnitude is shifted until its first bit is bit 30; what falls off behind is kept as one
    bit, and of the 31 bits 7 are rounded away.
    """
    sign = high >> 31
    high, low = carried((high ^ sign) - sign, (low ^ sign) - sign)
    small = high == 0
    top = tl.where(small, low, high)
    rest = tl.where(small, 0, low)
    # the bit below the first is cleared: however a chip rounds this float, its exponent is right
    field = bits_of((top & ~(top >> 1)).to(tl.float32)) >> 23
    place = tl.maximum(field - 127, 0)
    part = rest >> place
    whole = (top << (30 - place)) | part | (rest != (part << place)).to(tl.int32)
    kept = whole >> 7
    kept += ((whole & 127) + (kept & 1) > 64).to(tl.int32)
    # a carry out of the 24 bits of `kept` goes where it belongs: into the exponent
    bits = ((place + tl.where(small, 126, 156)) << 23) + kept
    return float_of(tl.where(top == 0, 0, bits) | (sign & SIGN))


@triton.jit
def part_of(high, low, factor, places: tl.constexpr):
    """(floor(number * factor / 2^places) as two limbs, whether something was left, as 0 or 1).

    Of numbers in [0, 2^60) and factors in [0, 2^places], 15 < places < 30: by digits of 15 bits,
    of which two products and a carry stay below 2^31.
    """
    f0, f1 = factor & HALF_LOW, factor >> 15
    n0, n1, n2, n3 = low & HALF_LOW, low >> 15, high & HALF_LOW, high >> 15
    d0 = n0 * f0
    d1 = n1 * f0 + n0 * f1 + (d0 >> 15)
    d2 = n2 * f0 + n1 * f1 + (d1 >> 15)
    d3 = n3 * f0 + n2 * f1 + (d2 >> 15)
    d4 = n3 * f1 + (d3 >> 15)
    # places - 15 bits of the second digit go, and as many of the fourth belong to the low limb
    gone: tl.constexpr = places - 15
    below: tl.constexpr = (1 << gone) - 1
    left = ((d0 & HALF_LOW) | (d1 & below)) != 0
    low = (
        ((d1 & HALF_LOW) >> gone) | ((d2 & HALF_LOW) << (15 - gone)) | ((d3 & below) << (30 - gone))
    )
    return ((d3 & HALF_LOW) >> gone) + (d4 << (15 - gone)), low, left.to(tl.int32)


@triton.jit
def divide_limb(limb, remainder, quotient, divisor):
    """Six steps of a long division, five bits of a limb each."""
    for step in range(6):
        remainder = (remainder << 5) + ((limb >> (25 - 5 * step)) & 31)
        digit = remainder // divisor
        remainder -= digit * divisor
        quotient = (quotient << 5) + digit
    return remainder, quotient


@triton.jit
def divided(high, low, divisor):
    """(quotient, remainder) of numbers in [0, 2^60) and divisors in [1, 2^26).

    A quotient from 2^31 on has no meaning; the remainder has.
    """
    nothing = tl.zeros_like(low)
    remainder, quotient = divide_limb(high, nothing, nothing, divisor)
    remainder, quotient = divide_limb(low, remainder, quotient, divisor)
    return quotient, remainder
