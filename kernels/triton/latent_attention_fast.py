"""Kernels of `latent_attention` in the fast profile.

Two: an online softmax over each span of rows, spans cut at the same positions for every token, and
the spans joined in order.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm5_hal.kernels.triton.floats import INFINITY, narrow, widen
from glm5_hal.kernels.triton.paging import fast_products, rows_of
from glm5_hal.kernels.triton.target import Target, padded, tiles_of
from glm5_hal.ops.latent_attention import LOG2_E


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


def weighted_sums(
    q_latent: Tensor,
    q_rope: Tensor,
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
    """Fill out [T, H, C] for as many tokens as scratch holds the spans' sums of."""
    tokens, count, width = out.shape
    chosen = visible if indices is None else indices
    tile = target.tile("attention_spans")
    heads = tile.fitted("heads", count)
    spans = tiles_of(longest, tile.sizes["span"])
    floats: dict[str, Any] = {"dtype": torch.float32, "device": out.device}
    sums = torch.empty(tokens, spans, count, width, **floats)
    masses, tops = (torch.empty(tokens, spans, count, **floats) for _ in range(2))
    target.launch(
        span_kernel,
        tokens * spans * tiles_of(count, heads),
        *(q_latent, q_rope, cache, pages, sequence, visible),
        *(chosen, sums, masses, tops, count, width, q_rope.shape[-1]),
        *(longest, pages.shape[1], page_size, spans, scale * LOG2_E),
        tile="attention_spans",
        selected=indices is not None,
        wide=target.widens(cache.dtype),
        heads=heads,
        columns=padded(width),
    )
    target.launch(
        join_kernel,
        tokens * count,
        *(visible, sums, masses, tops, out, count, width, spans),
        tile="attention_end",
        span=tile.sizes["span"],
        block=padded(width),
    )
