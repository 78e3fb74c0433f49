"""Scores of the indexer: a block of one token's visible keys a program, all heads at once.

The chain over heads runs in head order. Rows of a tile cannot be taken one by one, so the bits of
each are picked by a sum of integers of which all terms but one are zero.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm5_hal.exact import ACTIVATION_DIGITS, digits_of
from glm5_hal.handles import PagedContext
from glm5_hal.kernels.triton.fixing import cut
from glm5_hal.kernels.triton.floats import INFINITY, picked, read, write
from glm5_hal.kernels.triton.paging import exact_products, fast_products, row_exponents, slots_of
from glm5_hal.kernels.triton.target import Target, padded, tiles_of


@triton.jit
def exact_score(
    token,
    position,
    mask,
    queries,
    query_exponents,
    w,
    keys,
    pages,
    plane,
    count,
    width,
    page_size,
    scale,
    digits: tl.constexpr,
    heads: tl.constexpr,
    block: tl.constexpr,
    depth: tl.constexpr,
):
    """A token's scores [block] of the keys at positions; -Inf where there is none."""
    slots = slots_of(position, mask, pages, page_size)
    start = keys + slots * width
    head = tl.arange(0, heads)
    known = head < count
    query = token * count + head
    exponent = tl.load(query_exponents + query, mask=known, other=0)
    row_exponent = row_exponents(start, mask, width, block, depth)
    dots = exact_products(
        queries + query.to(tl.int64) * width,
        plane,
        known,
        exponent,
        start,
        mask,
        row_exponent,
        width,
        digits,
        heads,
        block,
        depth,
    )
    dots = read(tl.where(dots < 0.0, 0.0, dots))
    weight = read(read(tl.load(w + query, mask=known, other=0.0)) * scale)
    terms = dots * weight[:, None]
    total = tl.zeros([block], tl.float32)
    for one in range(count):
        total = total + picked(terms, (head == one)[:, None], 0)
    return tl.where(mask, write(total, tl.float32), -INFINITY)


@triton.jit
def fast_score(
    token,
    position,
    mask,
    queries,
    w,
    keys,
    pages,
    count,
    width,
    page_size,
    scale,
    wide: tl.constexpr,
    heads: tl.constexpr,
    block: tl.constexpr,
    depth: tl.constexpr,
):
    """A token's scores [block] of the keys at positions; -Inf where there is none."""
    slots = slots_of(position, mask, pages, page_size)
    head = tl.arange(0, heads)
    known = head < count
    query = token * count + head
    dots = fast_products(
        queries + query.to(tl.int64) * width,
        known,
        keys + slots * width,
        mask,
        width,
        wide,
        heads,
        block,
        depth,
    )
    weight = tl.load(w + query, mask=known, other=0.0) * scale
    terms = tl.where(dots < 0.0, 0.0, dots) * weight[:, None]
    terms = tl.where(known[:, None], terms, 0.0)
    total = tl.sum(terms, 0) + 0.0  # a sum of negative zeros becomes +0
    return tl.where(mask, total, -INFINITY)


@triton.jit
def exact_kernel(
    first,
    queries,
    query_exponents,
    w,
    keys,
    pages,
    sequence,
    lengths,
    out,
    plane,
    count,
    width,
    longest,
    page_count,
    page_size,
    scale,
    digits: tl.constexpr,
    heads: tl.constexpr,
    block: tl.constexpr,
    depth: tl.constexpr,
):
    """Scores out [tokens, longest]; query digits [3, tokens * count, width], w [tokens, count]."""
    program = tl.program_id(0) + first
    across = tl.cdiv(longest, block)
    token = program // across
    position = (program % across) * block + tl.arange(0, block)
    mask = position < tl.load(lengths + token)
    score = exact_score(
        token,
        position,
        mask,
        queries,
        query_exponents,
        w,
        keys,
        pages + tl.load(sequence + token) * page_count,
        plane,
        count,
        width,
        page_size,
        scale,
        digits,
        heads,
        block,
        depth,
    )
    tl.store(out + token.to(tl.int64) * longest + position, score, mask=position < longest)


@triton.jit
def fast_kernel(
    first,
    queries,
    w,
    keys,
    pages,
    sequence,
    lengths,
    out,
    count,
    width,
    longest,
    page_count,
    page_size,
    scale,
    wide: tl.constexpr,
    heads: tl.constexpr,
    block: tl.constexpr,
    depth: tl.constexpr,
):
    """Scores out [tokens, longest] of queries [tokens, count, width] and w [tokens, count]."""
    program = tl.program_id(0) + first
    across = tl.cdiv(longest, block)
    token = program // across
    position = (program % across) * block + tl.arange(0, block)
    mask = position < tl.load(lengths + token)
    score = fast_score(
        token,
        position,
        mask,
        queries,
        w,
        keys,
        pages + tl.load(sequence + token) * page_count,
        count,
        width,
        page_size,
        scale,
        wide,
        heads,
        block,
        depth,
    )
    tl.store(out + token.to(tl.int64) * longest + position, score, mask=position < longest)


def exact(
    q: Tensor,
    w: Tensor,
    keys: Tensor,
    page_size: int,
    context: PagedContext,
    scale: float,
    target: Target,
) -> Tensor:
    """Scores [T, max_length] of q [T, H, D] and w [T, H] with keys [slots, D]."""
    tokens, count, width = q.shape
    out = torch.empty(tokens, context.max_length, dtype=torch.float32, device=q.device)
    rows = cut(q.flatten(0, 1), target, ACTIVATION_DIGITS)
    block = target.tile("exact_scores").sizes["block"]
    target.launch(
        exact_kernel,
        tokens * tiles_of(context.max_length, block),
        *(rows.planes, rows.exponents, w.contiguous(), keys),
        *(context.page_table, context.sequence, context.lengths, out),
        *(rows.planes.stride(0), count, width, context.max_length),
        *(context.page_table.shape[1], page_size, scale),
        tile="exact_scores",
        digits=digits_of(keys.dtype),
        heads=padded(count),
    )
    return out


def fast(
    q: Tensor,
    w: Tensor,
    keys: Tensor,
    page_size: int,
    context: PagedContext,
    scale: float,
    target: Target,
) -> Tensor:
    """Scores [T, max_length] of q [T, H, D] and w [T, H] with keys [slots, D]."""
    tokens, count, width = q.shape
    out = torch.empty(tokens, context.max_length, dtype=torch.float32, device=q.device)
    block = target.tile("fast_scores").sizes["block"]
    target.launch(
        fast_kernel,
        tokens * tiles_of(context.max_length, block),
        *(q.contiguous(), w.contiguous(), keys),
        *(context.page_table, context.sequence, context.lengths, out),
        *(count, width, context.max_length, context.page_table.shape[1], page_size, scale),
        tile="fast_scores",
        wide=target.widens(q.dtype),
        heads=padded(count),
    )
    return out
