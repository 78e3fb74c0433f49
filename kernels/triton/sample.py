"""Choosing the next token, without a sort.

With ids in order of weight, what stands before those of weight v weighs G(v), the sum of all
greater weights. G falls as v grows, so the weight at which an accumulated mass is reached is found
bit by bit from above, and among equal weights the id is found by counting.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm5_hal.kernels.triton.fixing import shifted
from glm5_hal.kernels.triton.floats import INFINITY, READ, SIGN, exp, order_key
from glm5_hal.kernels.triton.target import Target, tiles_of
from glm5_hal.kernels.triton.wide import (
    add_word,
    at_least,
    carried,
    divided,
    lanes_summed,
    part_of,
)


@triton.jit
def largest_kernel(first, logits, temperature, largest, greedy, drawn, width, block: tl.constexpr):
    """Largest logit of each row, its first id, and whether the row is drawn from."""
    row = (tl.program_id(0) + first).to(tl.int64)
    best = tl.zeros([block], tl.int32) + SIGN
    place = tl.zeros([block], tl.int32)
    for begin in range(0, width, block):
        column = begin + tl.arange(0, block)
        mask = column < width
        logit = tl.load(logits + row * width + column, mask=mask, other=0.0)
        key = tl.where(mask, order_key(logit), SIGN)
        place = tl.where(key > best, column, place)
        best = tl.maximum(best, key)
    top = tl.max(best, 0)
    at = tl.min(tl.where(best == top, place, width), 0)
    value = tl.load(logits + row * width + at)
    heat = tl.load(temperature + row)
    finite = (value > -INFINITY) & (value < INFINITY)  # it is NaN if any is
    tl.store(largest + row, value)
    tl.store(greedy + row, at)
    warm = (heat >= READ) & (heat < INFINITY)
    tl.store(drawn + row, (finite & warm).to(tl.int32))


@triton.jit
def weight_kernel(first, logits, temperature, largest, drawn, weights, width, block: tl.constexpr):
    """Weights round(exp((logit - largest) / temperature) * 2^24), int32; zero where not drawn."""
    program = tl.program_id(0) + first
    across = tl.cdiv(width, block)
    row = (program // across).to(tl.int64)
    column = (program % across) * block + tl.arange(0, block)
    mask = column < width
    wanted = tl.load(drawn + row) > 0
    heat = tl.where(wanted, tl.load(temperature + row), 1.0)
    logit = tl.load(logits + row * width + column, mask=mask & wanted, other=-INFINITY)
    above = logit - tl.where(wanted, tl.load(largest + row), 0.0)
    share = exp(tl.math.div_rn(above, heat + tl.zeros([block], tl.float32)))
    bits = share.to(tl.int32, bitcast=True)
    field = bits >> 23
    mantissa = tl.where(field == 0, 0, (bits & 0x7FFFFF) | 0x800000)
    tl.store(weights + row * width + column, shifted(mantissa, 126 - field), mask=mask)


@triton.jit
def mass_from(weights, width, least, block: tl.constexpr):
    """Sum of the weights from `least` on: two limbs [1]."""
    high = tl.zeros([block], tl.int32)
    low = tl.zeros([block], tl.int32)
    for begin in range(0, width, block):
        column = begin + tl.arange(0, block)
        weight = tl.load(weights + column, mask=column < width, other=0)
        high, low = carried(high, low + tl.where(weight >= least, weight, 0))
    high, low = lanes_summed(high, low, 0)
    return high + tl.zeros([1], tl.int32), low + tl.zeros([1], tl.int32)


@triton.jit
def reaches(high, low, mass_high, mass_low):
    """1 where the lanes' sums add up to a mass, else 0."""
    high, low = lanes_summed(high, low, 0)
    return at_least(high, low, mass_high, mass_low).to(tl.int32)


@triton.jit
def weight_reaching(weights, width, mass_high, mass_low, block: tl.constexpr):
    """The least v whose greater weights sum to less than a mass >= 1."""
    found = tl.zeros([1], tl.int32)
    for step in range(13):
        shift = 24 - 2 * step
        one = (tl.zeros([1], tl.int32) + 1) << shift
        high1, low1 = tl.zeros([block], tl.int32), tl.zeros([block], tl.int32)
        high2, low2 = tl.zeros([block], tl.int32), tl.zeros([block], tl.int32)
        high3, low3 = tl.zeros([block], tl.int32), tl.zeros([block], tl.int32)
        for begin in range(0, width, block):
            column = begin + tl.arange(0, block)
            weight = tl.load(weights + column, mask=column < width, other=0)
            high1, low1 = carried(high1, low1 + tl.where(weight >= found + one, weight, 0))
            high2, low2 = carried(high2, low2 + tl.where(weight >= found + 2 * one, weight, 0))
            high3, low3 = carried(high3, low3 + tl.where(weight >= found + 3 * one, weight, 0))
        steps = reaches(high1, low1, mass_high, mass_low)
        steps += reaches(high2, low2, mass_high, mass_low)
        steps += reaches(high3, low3, mass_high, mass_low)
        found += steps << shift
    return found


@triton.jit
def draw_kernel(first, weights, greedy, drawn, limits, draws, out, width, block: tl.constexpr):
    """Token ids [rows]: `limits` is round(top_p * 2^24)."""
    row = (tl.program_id(0) + first).to(tl.int64)
    here = weights + row * width
    result = tl.load(greedy + row)
    if tl.load(drawn + row) > 0:
        zero = tl.zeros([1], tl.int32)
        # ceil(limit * everything / 2^24), at least 1: not above everything, so that last >= 1
        limit = tl.minimum(tl.maximum(tl.load(limits + row), zero), 1 << 24)
        high, low = mass_from(here, width, 0, block)
        mass_high, mass_low, left = part_of(high, low, limit, 24)
        mass_high, mass_low = add_word(mass_high, mass_low, left)
        mass_low = tl.where(mass_high == 0, tl.maximum(mass_low, 1), mass_low)
        last = weight_reaching(here, width, mass_high, mass_low, block)
        above_high, above_low = mass_from(here, width, last + 1, block)
        # the mass, and what the last kept weight has beyond it
        high, low = carried(mass_high - above_high, mass_low - above_low - 1)
        _, used = divided(high, low, tl.maximum(last, 1))
        total_high, total_low = add_word(mass_high, mass_low, last - 1 - used)
        # floor(total * (2 draw + 1) / 2^25)
        odd = 2 * (zero + tl.load(draws + row)) + 1
        goal_high, goal_low, _ = part_of(total_high, total_low, odd, 25)
        high, low = add_word(goal_high, goal_low, zero + 1)
        chosen = weight_reaching(here, width, high, low, block)
        above_high, above_low = mass_from(here, width, chosen + 1, block)
        high, low = carried(goal_high - above_high, goal_low - above_low)
        rank, _ = divided(high, low, tl.maximum(chosen, 1))
        seen = tl.zeros([1], tl.int32)
        place = tl.zeros([block], tl.int32) + width
        for begin in range(0, width, block):
            column = begin + tl.arange(0, block)
            weight = tl.load(here + column, mask=column < width, other=-1)
            same = (weight == chosen).to(tl.int32)
            number = seen + tl.cumsum(same, 0) - 1
            place = tl.where((same > 0) & (number == rank), column, place)
            seen += tl.sum(same, 0)
        result = tl.min(place, 0)
    tl.store(out + row, result)


def run(
    logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor, target: Target
) -> Tensor:
    """Token ids [T] of logits [T, V]: integer weights serve both profiles."""
    logits = logits.contiguous()
    rows, width = logits.shape
    integers: dict[str, Any] = {"dtype": torch.int32, "device": logits.device}
    largest = torch.empty(rows, dtype=torch.float32, device=logits.device)
    greedy, drawn, out = (torch.empty(rows, **integers) for _ in range(3))
    weights = torch.empty(rows, width, **integers)
    limits: Tensor = torch.round(
        top_p * 2.0**24
    ).int()  # exact product: one rounding, to an integer
    block = target.tile("sample").fitted("block", width)
    arguments: tuple[Any, ...] = (logits, temperature, largest, greedy, drawn, width)
    target.launch(largest_kernel, rows, *arguments, tile="sample", block=block)
    arguments = (logits, temperature, largest, drawn, weights, width)
    target.launch(
        weight_kernel, rows * tiles_of(width, block), *arguments, tile="sample", block=block
    )
    arguments = (weights, greedy, drawn, limits, draws, out, width)
    target.launch(draw_kernel, rows, *arguments, tile="sample", block=block)
    return out
