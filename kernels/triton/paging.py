"""Rows of a paged cache: which slots a token sees, and products of queries with those rows."""

import triton
import triton.language as tl

from glm5_hal.kernels.triton.fixing import (
    add_products,
    digit,
    exponent_of,
    field_of,
    fix,
    valued,
)
from glm5_hal.kernels.triton.floats import widen
from glm5_hal.kernels.triton.wide import joined


@triton.jit
def slots_of(position, mask, pages, page_size):
    """Slots, int64, of positions of a sequence whose page numbers stand at `pages`."""
    page = tl.load(pages + position // page_size, mask=mask, other=0).to(tl.int64)
    return page * page_size + position % page_size


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
def row_exponents(start, mask, width, block: tl.constexpr, depth: tl.constexpr):
    """Exponents [block] of cached rows of `width` values at pointers `start`."""
    largest = tl.zeros([depth, block], tl.int32)
    for begin in range(0, width, depth):
        place = begin + tl.arange(0, depth)
        inside = mask[None, :] & (place < width)[:, None]
        value = widen(tl.load(start[None, :] + place[:, None], mask=inside, other=0.0))
        largest = tl.maximum(largest, field_of(value))
    return exponent_of(tl.max(largest, 0))


@triton.jit
def exact_products(
    queries,
    plane,
    query_mask,
    query_exponent,
    start,
    mask,
    row_exponent,
    width,
    digits: tl.constexpr,
    heads: tl.constexpr,
    block: tl.constexpr,
    depth: tl.constexpr,
):
    """Products [heads, block] of query digits at pointers `queries` with cached rows, float32."""
    s0 = tl.zeros([heads, block], tl.int32)
    s1 = tl.zeros([heads, block], tl.int32)
    s2 = tl.zeros([heads, block], tl.int32)
    s3 = tl.zeros([heads, block], tl.int32)
    s4 = tl.zeros([heads, block], tl.int32)
    for begin in range(0, width, depth):
        place = begin + tl.arange(0, depth)
        inside = mask[None, :] & (place < width)[:, None]
        value = widen(tl.load(start[None, :] + place[:, None], mask=inside, other=0.0))
        whole = fix(value, row_exponent[None, :], digits)
        b0 = digit(whole, 0)
        b1 = digit(whole, 1)
        b2 = b0
        if digits == 3:
            b2 = digit(whole, 2)
        at = queries[:, None] + place[None, :]
        known = query_mask[:, None] & (place < width)[None, :]
        a0 = tl.load(at, mask=known, other=0)
        a1 = tl.load(at + plane, mask=known, other=0)
        a2 = tl.load(at + 2 * plane, mask=known, other=0)
        s0, s1, s2, s3, s4 = add_products(a0, a1, a2, b0, b1, b2, s0, s1, s2, s3, s4, digits)
    high, low = joined(s0, s1, s2, s3, s4)
    return valued(high, low, query_exponent[:, None], row_exponent[None, :], digits)


@triton.jit
def fast_products(
    queries,
    query_mask,
    start,
    mask,
    width,
    wide: tl.constexpr,
    heads: tl.constexpr,
    block: tl.constexpr,
    depth: tl.constexpr,
):
    """Products [heads, block] of queries at pointers `queries` with cached rows, float32."""
    total = tl.zeros([heads, block], tl.float32)
    for begin in range(0, width, depth):
        place = begin + tl.arange(0, depth)
        inside = mask[None, :] & (place < width)[:, None]
        row = tl.load(start[None, :] + place[:, None], mask=inside, other=0.0)
        known = query_mask[:, None] & (place < width)[None, :]
        query = tl.load(queries[:, None] + place[None, :], mask=known, other=0.0)
        if wide:
            row = widen(row)
            query = widen(query)
        total = tl.dot(query, row, total, input_precision="ieee", out_dtype=tl.float32)
    return total
