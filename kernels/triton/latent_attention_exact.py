"""Kernels of `latent_attention` in the exact profile.

Three: scores and their integer maxima; integer weights and integer sums, over rows split as the
chip likes; one division.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm5_hal.exact import digits_of
from glm5_hal.kernels.triton.fixing import Digits, add_products, digit, fix, shifted
from glm5_hal.kernels.triton.floats import (
    INFINITY,
    ROUNDER,
    ROUNDER_BITS,
    SIGN,
    exp2_fraction,
    narrow,
    scaled,
    widen,
)
from glm5_hal.kernels.triton.paging import exact_products, row_exponents, rows_of
from glm5_hal.kernels.triton.target import Target, padded, tiles_of
from glm5_hal.kernels.triton.wide import add_word, added, joined, to_float
from glm5_hal.ops.latent_attention import CLAMP as _CLAMP
from glm5_hal.ops.latent_attention import LOG2_E

CLAMP = tl.constexpr(_CLAMP)
BROKEN = tl.constexpr((1 << 31) - 1)
"""A maximum that says: some score is not finite."""


@triton.jit
def score_kernel(
    first,
    latents,
    latent_exponents,
    turned,
    turned_exponents,
    cache,
    pages,
    sequence,
    visible,
    indices,
    scores,
    exponents,
    tops,
    lifts,
    latent_plane,
    turned_plane,
    count,
    latent_width,
    turned_width,
    longest,
    k,
    page_count,
    page_size,
    factor,
    selected: tl.constexpr,
    digits: tl.constexpr,
    heads: tl.constexpr,
    block: tl.constexpr,
    depth: tl.constexpr,
):
    """Scores [tokens, count, longest], row exponents [tokens, longest], maxima of each block."""
    program = tl.program_id(0) + first
    blocks = tl.cdiv(longest, block)
    parts = tl.cdiv(count, heads)
    part = program % parts
    here = (program // parts) % blocks
    token = program // parts // blocks
    position = here * block + tl.arange(0, block)
    mask = position < tl.load(visible + token)
    slots = rows_of(
        position, mask, token, indices, k, pages, sequence, page_count, page_size, selected
    )
    start = cache + slots * (latent_width + turned_width)
    head = part * heads + tl.arange(0, heads)
    known = head < count
    query = token * count + head
    row = query.to(tl.int64)
    exponent = row_exponents(start, mask, latent_width, block, depth)
    left = exact_products(
        latents + row * latent_width,
        latent_plane,
        known,
        tl.load(latent_exponents + query, mask=known, other=0),
        start,
        mask,
        exponent,
        latent_width,
        digits,
        heads,
        block,
        depth,
    )
    right = exact_products(
        turned + row * turned_width,
        turned_plane,
        known,
        tl.load(turned_exponents + query, mask=known, other=0),
        start + latent_width,
        mask,
        row_exponents(start + latent_width, mask, turned_width, block, depth),
        turned_width,
        digits,
        heads,
        block,
        depth,
    )
    total = left + right
    finite = tl.abs(total) < INFINITY
    score = tl.where(finite, total * factor, 0.0)
    score = tl.where(score > CLAMP, CLAMP, tl.where(score < -CLAMP, -CLAMP, score))
    whole = (score + ROUNDER).to(tl.int32, bitcast=True) - ROUNDER_BITS
    seen = mask[None, :]
    top = tl.where(finite, whole, BROKEN)
    at = token.to(tl.int64) * longest
    goal = scores + (at * count + head.to(tl.int64)[:, None] * longest) + position[None, :]
    tl.store(goal, score, mask=known[:, None] & seen)
    tl.store(exponents + at + position, exponent, mask=mask & (part == 0))
    maxima = (token * blocks + here) * count + head
    tl.store(tops + maxima, tl.max(tl.where(seen, top, SIGN), 1), mask=known)
    lift = tl.where(seen, whole + exponent[None, :], SIGN)
    tl.store(lifts + maxima, tl.max(lift, 1), mask=known)


@triton.jit
def weigh_kernel(
    first,
    cache,
    pages,
    sequence,
    visible,
    indices,
    scores,
    exponents,
    tops,
    lifts,
    sums,
    masses,
    count,
    latent_width,
    row_width,
    longest,
    k,
    page_count,
    page_size,
    splits,
    plane,
    selected: tl.constexpr,
    digits: tl.constexpr,
    heads: tl.constexpr,
    columns: tl.constexpr,
    span: tl.constexpr,
    block: tl.constexpr,
):
    """Integer sums [2, tokens, splits, count, latent_width] and masses [2, tokens, splits, count].

    Low limbs come first, the high ones `plane` rows behind. A split has `span` rows, at most
    32,768: three pairs of digits in one int32 sum. A block has at most 128: their masses stay below
    2^31.
    """
    program = tl.program_id(0) + first
    across = tl.cdiv(latent_width, columns)
    parts = tl.cdiv(count, heads)
    strip = program % across
    part = (program // across) % parts
    split = (program // across // parts) % splits
    token = program // across // parts // splits
    head = part * heads + tl.arange(0, heads)
    known = head < count
    column = strip * columns + tl.arange(0, columns)
    inside = column < latent_width
    top = tl.load(tops + token * count + head, mask=known, other=0)
    lift = tl.load(lifts + token * count + head, mask=known, other=0)
    at = token.to(tl.int64) * longest
    source = scores + (at * count + head.to(tl.int64) * longest)
    s0 = tl.zeros([heads, columns], tl.int32)
    s1 = tl.zeros([heads, columns], tl.int32)
    s2 = tl.zeros([heads, columns], tl.int32)
    s3 = tl.zeros([heads, columns], tl.int32)
    s4 = tl.zeros([heads, columns], tl.int32)
    mass_high = tl.zeros([heads], tl.int32)
    mass_low = tl.zeros([heads], tl.int32)
    end = tl.minimum((split + 1) * span, tl.load(visible + token))
    for begin in range(split * span, end, block):
        position = begin + tl.arange(0, block)
        mask = position < end
        seen = known[:, None] & mask[None, :]
        score = tl.load(source[:, None] + position[None, :], mask=seen, other=0.0)
        exponent = tl.load(exponents + at + position, mask=mask, other=0)
        rounded = score + ROUNDER
        whole = rounded.to(tl.int32, bitcast=True) - ROUNDER_BITS
        p = exp2_fraction(score - (rounded - ROUNDER)).to(tl.int32, bitcast=True)
        mantissa = (p & 0x7FFFFF) | 0x800000
        shift = 150 - (p >> 23)
        weight = shifted(mantissa, shift - (whole - top[:, None] + 23))
        more = tl.sum(tl.where(seen, weight, 0), 1)
        mass_high, mass_low = add_word(mass_high, mass_low, more)
        lifted = whole + exponent[None, :] - lift[:, None]
        weight = tl.where(seen, shifted(mantissa, shift - (lifted + 21)), 0)
        slots = rows_of(
            position, mask, token, indices, k, pages, sequence, page_count, page_size, selected
        )
        there = cache + slots[:, None] * row_width + column[None, :]
        value = widen(tl.load(there, mask=mask[:, None] & inside[None, :], other=0.0))
        row = fix(value, exponent[:, None], digits)
        b0 = digit(row, 0)
        b1 = digit(row, 1)
        b2 = b0
        if digits == 3:
            b2 = digit(row, 2)
        s0, s1, s2, s3, s4 = add_products(
            digit(weight, 0),
            digit(weight, 1),
            digit(weight, 2),
            b0,
            b1,
            b2,
            s0,
            s1,
            s2,
            s3,
            s4,
            digits,
        )
    goal = (token * splits + split) * count + head
    high, low = joined(s0, s1, s2, s3, s4)
    out = sums + goal.to(tl.int64)[:, None] * latent_width + column[None, :]
    tl.store(out, low, mask=known[:, None] & inside[None, :])
    out = sums + (goal + plane).to(tl.int64)[:, None] * latent_width + column[None, :]
    tl.store(out, high, mask=known[:, None] & inside[None, :])
    tl.store(masses + goal, mass_low, mask=known & (strip == 0))
    tl.store(masses + goal + plane, mass_high, mask=known & (strip == 0))


@triton.jit
def divide_kernel(
    first,
    visible,
    tops,
    lifts,
    sums,
    masses,
    out,
    count,
    width,
    splits,
    plane,
    digits: tl.constexpr,
    block: tl.constexpr,
):
    """out [tokens, count, width]: one token and head a program."""
    program = tl.program_id(0) + first
    token = program // count
    head = program % count
    column = tl.arange(0, block)
    inside = column < width
    high = tl.zeros([block], tl.int32)
    low = tl.zeros([block], tl.int32)
    mass_high = tl.zeros([1], tl.int32)
    mass_low = tl.zeros([1], tl.int32)
    for split in range(splits):
        at = (token * splits + split) * count + head
        behind = at + plane
        more_low = tl.load(sums + at.to(tl.int64) * width + column, mask=inside, other=0)
        more_high = tl.load(sums + behind.to(tl.int64) * width + column, mask=inside, other=0)
        high, low = added(high, low, more_high, more_low)
        more_low, more_high = tl.load(masses + at), tl.load(masses + behind)
        mass_high, mass_low = added(mass_high, mass_low, more_high, more_low)
    top = tl.load(tops + program)
    lift = tl.load(lifts + program)
    inverse = tl.math.div_rn(1.0, to_float(mass_high, mass_low))
    value = scaled(to_float(high, low) * inverse, lift - top + 4 - 8 * digits)
    value = tl.where(top == BROKEN, float("nan"), value)
    value = tl.where(tl.load(visible + token) == 0, 0.0, value)
    goal = out + program.to(tl.int64) * width + column
    tl.store(goal, narrow(value, out.dtype.element_ty), mask=inside)


def weighted_sums(
    latents: Digits,
    turned: Digits,
    cache: Tensor,
    page_size: int,
    pages: Tensor,
    sequence: Tensor,
    visible: Tensor,
    scale: float,
    indices: Tensor | None,
    longest: int,
    out: Tensor,
    target: Target,
) -> None:
    """Fill out [T, H, C] for as many tokens as scratch holds scores of."""
    tokens, count, width = out.shape
    turned_width = turned.planes.shape[-1]
    digits = digits_of(cache.dtype)
    selection = (indices if indices is not None else visible, longest)
    integers: dict[str, Any] = {"dtype": torch.int32, "device": out.device}
    tile = target.tile("attention_scores")
    heads = tile.fitted("heads", count)
    blocks = tiles_of(longest, tile.sizes["block"])
    scores = torch.empty(tokens, count, longest, dtype=torch.float32, device=out.device)
    exponents = torch.empty(tokens, longest, **integers)
    tops, lifts = (torch.empty(tokens, blocks, count, **integers) for _ in range(2))
    target.launch(
        score_kernel,
        tokens * blocks * tiles_of(count, heads),
        *(latents.planes, latents.exponents, turned.planes, turned.exponents),
        *(cache, pages, sequence, visible, selection[0]),
        *(scores, exponents, tops, lifts),
        *(latents.planes.stride(0), turned.planes.stride(0), count, width, turned_width),
        *(longest, selection[1], pages.shape[1], page_size, scale * LOG2_E),
        tile="attention_scores",
        selected=indices is not None,
        digits=digits,
        heads=heads,
    )
    tops, lifts = (part.amax(1) for part in (tops, lifts))  # of integers: in any order
    tile = target.tile("attention_sums")
    heads, columns = tile.fitted("heads", count), tile.fitted("columns", width)
    splits = tiles_of(longest, tile.sizes["span"])
    plane = tokens * splits * count
    sums = torch.empty(2, plane, width, **integers)
    masses = torch.empty(2, plane, **integers)
    target.launch(
        weigh_kernel,
        tokens * splits * tiles_of(count, heads) * tiles_of(width, columns),
        *(cache, pages, sequence, visible, selection[0]),
        *(scores, exponents, tops, lifts, sums, masses),
        *(count, width, width + turned_width, longest, selection[1], pages.shape[1], page_size),
        *(splits, plane),
        tile="attention_sums",
        selected=indices is not None,
        digits=digits,
        heads=heads,
        columns=columns,
    )
    target.launch(
        divide_kernel,
        tokens * count,
        *(visible, tops, lifts, sums, masses, out, count, width, splits, plane),
        tile="attention_end",
        digits=digits,
        block=padded(width),
    )
