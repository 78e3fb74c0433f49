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
from glm5_hal.kernels.triton.target import Target, padded, tiles_of


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
    """Sum of the weights from `least` on: int64."""
    total = tl.zeros([block], tl.int64)
    for begin in range(0, width, block):
        column = begin + tl.arange(0, block)
        weight = tl.load(weights + column, mask=column < width, other=0)
        total += tl.where(weight >= least, weight, 0).to(tl.int64)
    return tl.sum(total, 0)


@triton.jit
def weight_reaching(weights, width, mass, block: tl.constexpr):
    """The least v whose greater weights sum to less than `mass`, mass >= 1."""
    found = tl.zeros([1], tl.int32)
    for step in range(13):
        shift = 24 - 2 * step
        one = (tl.zeros([1], tl.int32) + 1) << shift
        n1 = tl.zeros([block], tl.int64)
        n2 = tl.zeros([block], tl.int64)
        n3 = tl.zeros([block], tl.int64)
        for begin in range(0, width, block):
            column = begin + tl.arange(0, block)
            weight = tl.load(weights + column, mask=column < width, other=0)
            n1 += tl.where(weight >= found + one, weight, 0).to(tl.int64)
            n2 += tl.where(weight >= found + 2 * one, weight, 0).to(tl.int64)
            n3 += tl.where(weight >= found + 3 * one, weight, 0).to(tl.int64)
        steps = (tl.sum(n1, 0) >= mass).to(tl.int32)
        steps += (tl.sum(n2, 0) >= mass).to(tl.int32)
        steps += (tl.sum(n3, 0) >= mass).to(tl.int32)
        found += steps << shift
    return found


@triton.jit
def draw_kernel(first, weights, greedy, drawn, limits, draws, out, width, block: tl.constexpr):
    """Token ids [rows]: `limits` is round(top_p * 2^24)."""
    row = (tl.program_id(0) + first).to(tl.int64)
    here = weights + row * width
    result = tl.load(greedy + row)
    if tl.load(drawn + row) > 0:
        zero = tl.zeros([1], tl.int64)
        everything = zero + mass_from(here, width, 0, block)
        limit = zero + tl.load(limits + row)
        # ceil(limit * everything / 2^24), which int64 holds in two parts
        low = limit * (everything & 0xFFFFFF)
        mass = limit * (everything >> 24) + ((low + 0xFFFFFF) >> 24)
        mass = tl.maximum(mass, zero + 1)
        last = weight_reaching(here, width, mass, block)
        before = zero + mass_from(here, width, last + 1, block)
        each = tl.maximum(last.to(tl.int64), zero + 1)
        equal = (zero + mass_from(here, width, last, block) - before) // each
        kept = tl.minimum((mass - before + each - 1) // each, equal)
        total = before + kept * last
        # floor(total * (2 draw + 1) / 2^25)
        odd = 2 * (zero + tl.load(draws + row)) + 1
        goal = (total >> 25) * odd + (((total & 0x1FFFFFF) * odd) >> 25)
        chosen = weight_reaching(here, width, goal + 1, block)
        before = zero + mass_from(here, width, chosen + 1, block)
        rank = ((goal - before) // tl.maximum(chosen.to(tl.int64), zero + 1)).to(tl.int32)
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
    block = min(padded(width), target.tile("sample").sizes["block"])
    arguments: tuple[Any, ...] = (logits, temperature, largest, greedy, drawn, width)
    target.launch(largest_kernel, rows, *arguments, tile="sample", block=block)
    arguments = (logits, temperature, largest, drawn, weights, width)
    target.launch(
        weight_kernel, rows * tiles_of(width, block), *arguments, tile="sample", block=block
    )
    arguments = (weights, greedy, drawn, limits, draws, out, width)
    target.launch(draw_kernel, rows, *arguments, tile="sample", block=block)
    return out
