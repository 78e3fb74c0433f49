"""One kernel a function of `glm5_hal.kernels.triton.wide` and `fixing`, for its tests."""

import triton
import triton.language as tl

from glm5_hal.kernels.triton import fixing, wide


@triton.jit
def float_kernel(high, low, out, block: tl.constexpr):
    at = tl.arange(0, block)
    tl.store(out + at, wide.to_float(tl.load(high + at), tl.load(low + at)))


@triton.jit
def joined_kernel(sums, high, low, block: tl.constexpr):
    at = tl.arange(0, block)
    s0, s1, s2 = tl.load(sums + at), tl.load(sums + block + at), tl.load(sums + 2 * block + at)
    s3, s4 = tl.load(sums + 3 * block + at), tl.load(sums + 4 * block + at)
    found_high, found_low = wide.joined(s0, s1, s2, s3, s4)
    tl.store(high + at, found_high)
    tl.store(low + at, found_low)


@triton.jit
def added_kernel(a_high, a_low, b_high, b_low, high, low, reaches, block: tl.constexpr):
    at = tl.arange(0, block)
    ah, al = tl.load(a_high + at), tl.load(a_low + at)
    bh, bl = tl.load(b_high + at), tl.load(b_low + at)
    found_high, found_low = wide.added(ah, al, bh, bl)
    tl.store(high + at, found_high)
    tl.store(low + at, found_low)
    tl.store(reaches + at, wide.at_least(ah, al, bh, bl).to(tl.int32))


@triton.jit
def summed_kernel(x, high, low, squared: tl.constexpr, rows: tl.constexpr, block: tl.constexpr):
    row = tl.arange(0, rows)
    values = tl.load(x + row[:, None] * block + tl.arange(0, block)[None, :])
    if squared:
        found_high, found_low = fixing.square_sum(values, 1)
    else:
        found_high, found_low = wide.summed(values, 1)
    tl.store(high + row, found_high)
    tl.store(low + row, found_low)


@triton.jit
def lanes_kernel(high, low, out_high, out_low, rows: tl.constexpr, block: tl.constexpr):
    row = tl.arange(0, rows)
    at = row[:, None] * block + tl.arange(0, block)[None, :]
    found_high, found_low = wide.lanes_summed(tl.load(high + at), tl.load(low + at), 1)
    tl.store(out_high + row, found_high)
    tl.store(out_low + row, found_low)


@triton.jit
def multiplied_kernel(x, factor, high, low, block: tl.constexpr):
    at = tl.arange(0, block)
    found_high, found_low = wide.multiplied(tl.load(x + at), tl.load(factor + at))
    tl.store(high + at, found_high)
    tl.store(low + at, found_low)


@triton.jit
def part_kernel(
    high, low, factor, out_high, out_low, left, places: tl.constexpr, block: tl.constexpr
):
    at = tl.arange(0, block)
    found_high, found_low, more = wide.part_of(
        tl.load(high + at), tl.load(low + at), tl.load(factor + at), places
    )
    tl.store(out_high + at, found_high)
    tl.store(out_low + at, found_low)
    tl.store(left + at, more)


@triton.jit
def divided_kernel(high, low, divisor, quotient, remainder, block: tl.constexpr):
    at = tl.arange(0, block)
    found, rest = wide.divided(tl.load(high + at), tl.load(low + at), tl.load(divisor + at))
    tl.store(quotient + at, found)
    tl.store(remainder + at, rest)
