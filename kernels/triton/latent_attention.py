"""Attention over latent cache rows, dense or over selected rows.

Exact, in three kernels: scores and their integer maxima; integer weights and integer sums, over
rows split as the chip likes; one division. Fast, in two: an online softmax over each span of rows,
spans cut at the same positions for every token, and the spans joined in order.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm5_hal.exact import ACTIVATION_DIGITS, digits_of
from glm5_hal.handles import PagedContext
from glm5_hal.kernels.triton.fixing import (
    Digits,
    add_products,
    cut,
    digit,
    fix,
    joined,
    shifted,
)
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
from glm5_hal.kernels.triton.paging import exact_products, fast_products, row_exponents, slots_of
from glm5_hal.kernels.triton.target import Target, padded, tiles_of
from glm5_hal.ops.latent_attention import CLAMP as _CLAMP
from glm5_hal.ops.latent_attention import LOG2_E

CLAMP = tl.constexpr(_CLAMP)
BROKEN = tl.constexpr((1 << 31) - 1)
"""A maximum that says: some score is not finite."""


@triton.jit
def visible_kernel(first, indices, out, k, block: tl.constexpr):
    """How many entries of each row of indices [tokens, k] stand before its first -1."""
    token = (tl.program_id(0) + first).to(tl.int64)
    least = tl.zeros([block], tl.int32) + k
    for begin in range(0, k, block):
        place = begin + tl.arange(0, block)
        index = tl.load(indices + token * k + place, mask=place < k, other=0)
        least = tl.minimum(least, tl.where(index < 0, place, k))
    tl.store(out + token, tl.min(least, 0))


@triton.jit
def rows_of(
    position,
    mask,
    token,
    indices,
    k,
    pages,
    sequence,
    page_count,
    page_size,
    selected: tl.constexpr,
):
    """Slots of a token's visible rows at positions of its own numbering."""
    if selected:
        position = tl.load(indices + token.to(tl.int64) * k + position, mask=mask, other=0)
    return slots_of(position, mask, pages + tl.load(sequence + token) * page_count, page_size)


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
    selected: tl.constexpr,
    digits: tl.constexpr,
    heads: tl.constexpr,
    columns: tl.constexpr,
    span: tl.constexpr,
    block: tl.constexpr,
):
    """Integer sums [tokens, splits, count, latent_width] and masses [tokens, splits, count].

    A split has `span` rows, at most 32,768: three pairs of digits in one int32 sum.
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
    mass = tl.zeros([heads], tl.int64)
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
        mass += tl.sum(tl.where(seen, weight, 0).to(tl.int64), 1)
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
    out = sums + goal.to(tl.int64)[:, None] * latent_width + column[None, :]
    tl.store(out, joined(s0, s1, s2, s3, s4), mask=known[:, None] & inside[None, :])
    tl.store(masses + goal, mass, mask=known & (strip == 0))


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
    digits: tl.constexpr,
    block: tl.constexpr,
):
    """out [tokens, count, width]: one token and head a program."""
    program = tl.program_id(0) + first
    token = program // count
    head = program % count
    column = tl.arange(0, block)
    inside = column < width
    total = tl.zeros([block], tl.int64)
    mass = tl.zeros([1], tl.int64)
    for split in range(splits):
        at = (token * splits + split) * count + head
        total += tl.load(sums + at.to(tl.int64) * width + column, mask=inside, other=0)
        mass += tl.load(masses + at)
    top = tl.load(tops + program)
    lift = tl.load(lifts + program)
    inverse = tl.math.div_rn(1.0, mass.to(tl.float32))
    value = scaled(total.to(tl.float32) * inverse, lift - top + 4 - 8 * digits)
    value = tl.where(top == BROKEN, float("nan"), value)
    value = tl.where(tl.load(visible + token) == 0, 0.0, value)
    goal = out + program.to(tl.int64) * width + column
    tl.store(goal, narrow(value, out.dtype.element_ty), mask=inside)


@triton.jit
def span_kernel(
    first,
    latents,
    turned,
    cache,
    pages,
    sequence,
    visible,
    indices,
    sums,
    masses,
    tops,
    count,
    latent_width,
    turned_width,
    k,
    page_count,
    page_size,
    spans,
    factor,
    selected: tl.constexpr,
    wide: tl.constexpr,
    heads: tl.constexpr,
    columns: tl.constexpr,
    span: tl.constexpr,
    block: tl.constexpr,
    depth: tl.constexpr,
):
    """Softmax of one span of rows, not yet divided: sums, masses and maxima per span."""
    program = tl.program_id(0) + first
    parts = tl.cdiv(count, heads)
    part = program % parts
    here = (program // parts) % spans
    token = program // parts // spans
    head = part * heads + tl.arange(0, heads)
    known = head < count
    row = (token * count + head).to(tl.int64)
    column = tl.arange(0, columns)
    inside = column < latent_width
    top = tl.zeros([heads], tl.float32) - INFINITY
    mass = tl.zeros([heads], tl.float32)
    total = tl.zeros([heads, columns], tl.float32)
    end = tl.minimum((here + 1) * span, tl.load(visible + token))
    for begin in range(here * span, end, block):
        position = begin + tl.arange(0, block)
        mask = position < end
        slots = rows_of(
            position, mask, token, indices, k, pages, sequence, page_count, page_size, selected
        )
        start = cache + slots * (latent_width + turned_width)
        left = fast_products(
            latents + row * latent_width,
            known,
            start,
            mask,
            latent_width,
            wide,
            heads,
            block,
            depth,
        )
        right = fast_products(
            turned + row * turned_width,
            known,
            start + latent_width,
            mask,
            turned_width,
            wide,
            heads,
            block,
            depth,
        )
        score = tl.where(mask[None, :], (left + right) * factor, -INFINITY)
        higher = tl.maximum(top, tl.max(score, 1))
        weight = tl.exp2(score - higher[:, None])
        fade = tl.exp2(top - higher)
        mass = mass * fade + tl.sum(weight, 1)
        there = start[:, None] + column[None, :]
        value = tl.load(there, mask=mask[:, None] & inside[None, :], other=0.0)
        weight = narrow(weight, value.dtype)
        if wide:
            weight = widen(weight)
            value = widen(value)
        added = tl.dot(weight, value, input_precision="ieee", out_dtype=tl.float32)
        total = total * fade[:, None] + added
        top = higher
    goal = (token * spans + here) * count + head
    out = sums + goal.to(tl.int64)[:, None] * latent_width + column[None, :]
    tl.store(out, total, mask=known[:, None] & inside[None, :])
    tl.store(masses + goal, mass, mask=known)
    tl.store(tops + goal, top, mask=known)


@triton.jit
def join_kernel(
    first,
    visible,
    sums,
    masses,
    tops,
    out,
    count,
    width,
    spans,
    span: tl.constexpr,
    block: tl.constexpr,
):
    """out [tokens, count, width] of the spans that hold visible rows, joined in order."""
    program = tl.program_id(0) + first
    token = program // count
    head = program % count
    column = tl.arange(0, block)
    inside = column < width
    length = tl.load(visible + token)
    used = tl.cdiv(length, span)
    top = tl.zeros([1], tl.float32) - INFINITY
    mass = tl.zeros([1], tl.float32)
    total = tl.zeros([block], tl.float32)
    for here in range(used):
        at = (token * spans + here) * count + head
        one = tl.load(tops + at)
        higher = tl.maximum(top, one)
        fade = tl.exp2(top - higher)
        share = tl.exp2(one - higher)
        part = tl.load(sums + at.to(tl.int64) * width + column, mask=inside, other=0.0)
        mass = mass * fade + tl.load(masses + at) * share
        total = total * fade + part * share
        top = higher
    value = tl.where(length == 0, 0.0, tl.math.div_rn(total, mass + tl.zeros([block], tl.float32)))
    goal = out + program.to(tl.int64) * width + column
    tl.store(goal, narrow(value, out.dtype.element_ty), mask=inside)


def visible_rows(context: PagedContext, indices: Tensor | None, target: Target) -> Tensor:
    """How many rows each token sees: [T] int32."""
    if indices is None:
        return context.lengths
    out = torch.empty_like(context.lengths)
    block = min(padded(indices.shape[1]), 1024)
    arguments = (indices, out, indices.shape[1])
    target.launch(visible_kernel, out.shape[0], *arguments, tile="visible", block=block)
    return out


def exact(
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Tensor,
    page_size: int,
    context: PagedContext,
    scale: float,
    indices: Tensor | None,
    target: Target,
) -> Tensor:
    """Weighted sums [T, H, C] of cached rows [slots, C + R] for queries [T, H, C] and [T, H, R]."""
    tokens, count, width = q_latent.shape
    out = torch.empty(tokens, count, width, dtype=q_latent.dtype, device=q_latent.device)
    longest = context.max_length if indices is None else indices.shape[1]
    visible = visible_rows(context, indices, target)
    latents = cut(q_latent.flatten(0, 1), target, ACTIVATION_DIGITS)
    turned = cut(q_rope.flatten(0, 1), target, ACTIVATION_DIGITS)
    some = max(1, target.scratch // (4 * count * max(longest, 1)))
    for start in range(0, tokens, some):
        stop = min(start + some, tokens)
        rows = slice(start * count, stop * count)
        _exact_some(
            Digits(latents.planes[:, rows], latents.exponents[rows]),
            Digits(turned.planes[:, rows], turned.exponents[rows]),
            cache,
            page_size,
            context.page_table,
            context.sequence[start:stop],
            visible[start:stop],
            scale,
            None if indices is None else indices[start:stop].contiguous(),
            longest,
            out[start:stop],
            target,
        )
    return out


def _exact_some(
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
    """`exact` for as many tokens as scratch holds scores of."""
    tokens, count, width = out.shape
    turned_width = turned.planes.shape[-1]
    digits = digits_of(cache.dtype)
    selection = (indices if indices is not None else visible, longest)
    integers: dict[str, Any] = {"dtype": torch.int32, "device": out.device}
    sizes = target.tile("attention_scores").sizes
    heads = min(padded(count), sizes["heads"])
    blocks = tiles_of(longest, sizes["block"])
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
    sizes = target.tile("attention_sums").sizes
    heads = min(padded(count), sizes["heads"])
    columns = min(padded(width), sizes["columns"])
    splits = tiles_of(longest, sizes["span"])
    sums = torch.empty(tokens, splits, count, width, dtype=torch.int64, device=out.device)
    masses = torch.empty(tokens, splits, count, dtype=torch.int64, device=out.device)
    target.launch(
        weigh_kernel,
        tokens * splits * tiles_of(count, heads) * tiles_of(width, columns),
        *(cache, pages, sequence, visible, selection[0]),
        *(scores, exponents, tops, lifts, sums, masses),
        *(count, width, width + turned_width, longest, selection[1], pages.shape[1], page_size),
        splits,
        tile="attention_sums",
        selected=indices is not None,
        digits=digits,
        heads=heads,
        columns=columns,
    )
    target.launch(
        divide_kernel,
        tokens * count,
        *(visible, tops, lifts, sums, masses, out, count, width, splits),
        tile="attention_end",
        digits=digits,
        block=padded(width),
    )


def fast(
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Tensor,
    page_size: int,
    context: PagedContext,
    scale: float,
    indices: Tensor | None,
    target: Target,
) -> Tensor:
    """Weighted sums [T, H, C] of cached rows [slots, C + R] for queries [T, H, C] and [T, H, R]."""
    tokens, count, width = q_latent.shape
    turned_width = q_rope.shape[-1]
    q_latent, q_rope = q_latent.contiguous(), q_rope.contiguous()
    out = torch.empty_like(q_latent)
    longest = context.max_length if indices is None else indices.shape[1]
    visible = visible_rows(context, indices, target)
    sizes = target.tile("attention_spans").sizes
    heads = min(padded(count), sizes["heads"])
    spans = tiles_of(longest, sizes["span"])
    pages = context.page_table
    some = max(1, target.scratch // (4 * count * width * max(spans, 1)))
    for start in range(0, tokens, some):
        part = slice(start, min(start + some, tokens))
        chosen = visible if indices is None else indices[part].contiguous()
        size = part.stop - part.start
        floats: dict[str, Any] = {"dtype": torch.float32, "device": out.device}
        sums = torch.empty(size, spans, count, width, **floats)
        masses, tops = (torch.empty(size, spans, count, **floats) for _ in range(2))
        target.launch(
            span_kernel,
            size * spans * tiles_of(count, heads),
            *(q_latent[part], q_rope[part], cache, pages, context.sequence[part], visible[part]),
            *(chosen, sums, masses, tops, count, width, turned_width),
            *(longest, pages.shape[1], page_size, spans, scale * LOG2_E),
            tile="attention_spans",
            selected=indices is not None,
            wide=target.widens(cache.dtype),
            heads=heads,
            columns=padded(width),
        )
        target.launch(
            join_kernel,
            size * count,
            *(visible[part], sums, masses, tops, out[part], count, width, spans),
            tile="attention_end",
            span=sizes["span"],
            block=padded(width),
        )
    return out
