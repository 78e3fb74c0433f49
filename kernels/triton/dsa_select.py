"""Index scores and top-k in one: no matrix of scores is ever written.

A program goes over the keys that one token sees, a block at a time, and keeps the scores that may
still be among the best k, with their positions. When no other block fits it keeps the best k of
those, in order; from then on only what is larger than their least can enter. Where tokens are few
the keys are cut into spans, one a program, and the best of each span are chosen from once more.
Which k that are does not depend on any of this: the order is total.

Threads of a program read what others of it have stored, so each such place has a barrier. A chip
that has none (`Target.barriers`) goes by way of scores of a few tokens at a time.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm5_hal.exact import ACTIVATION_DIGITS, digits_of
from glm5_hal.handles import PagedContext
from glm5_hal.kernels.triton import index_scores, topk
from glm5_hal.kernels.triton.fixing import cut
from glm5_hal.kernels.triton.floats import SIGN, order_key
from glm5_hal.kernels.triton.index_scores import exact_score, fast_score
from glm5_hal.kernels.triton.target import Target, padded, tiles_of
from glm5_hal.kernels.triton.topk import kth_key, row_keys, spare_equals


@triton.jit
def keep_best(scores, places, held, wanted, goal, sweep: tl.constexpr):
    """The wanted best of `held` candidates, in order, to their own front and their places to goal.

    Returns the least key among them. `goal` may be `places`.
    """
    threshold = kth_key(scores, held, wanted, sweep)
    spare = spare_equals(scores, held, wanted, threshold, sweep)
    equals = tl.zeros([1], tl.int32)
    taken = tl.zeros([1], tl.int32)
    for begin in range(0, held, sweep):
        column, mask, key = row_keys(scores, begin, held, sweep)
        score = tl.load(scores + column, mask=mask, other=0.0)
        place = tl.load(places + column, mask=mask, other=0)
        tl.debug_barrier()  # the front may be stored to where another thread has yet to load
        equal = ((key == threshold) & mask).to(tl.int32)
        rank = equals + tl.cumsum(equal, 0)
        take = ((key > threshold) & mask) | ((equal > 0) & (rank <= spare))
        chosen = take.to(tl.int32)
        to = taken + tl.cumsum(chosen, 0) - 1
        tl.store(scores + to, score, mask=take)
        tl.store(goal + to, place, mask=take)
        equals += tl.sum(equal, 0)
        taken += tl.sum(chosen, 0)
    tl.debug_barrier()
    return threshold


@triton.jit
def pad(goal, begin, k, fill: tl.constexpr):
    """-1 from place `begin` to k."""
    for start in range(0, k, fill):
        place = start + tl.arange(0, fill)
        tl.store(goal + place, tl.full([fill], -1, tl.int32), mask=(place >= begin) & (place < k))


@triton.jit
def select_kernel(
    first,
    queries,
    query_exponents,
    w,
    keys,
    pages,
    sequence,
    lengths,
    scores,
    places,
    out,
    held_out,
    plane,
    count,
    width,
    k,
    spans,
    span,
    room,
    page_count,
    page_size,
    scale,
    exact: tl.constexpr,
    wide: tl.constexpr,
    digits: tl.constexpr,
    heads: tl.constexpr,
    block: tl.constexpr,
    depth: tl.constexpr,
    sweep: tl.constexpr,
    fill: tl.constexpr,
):
    """The best k of each span of what each token sees: out and scores [tokens, spans, ..].

    `scores` and `places` [tokens, spans, room] are scratch; the best scores stay at the front of
    theirs, and `held_out` [tokens, spans] says how many they are.
    """
    program = tl.program_id(0) + first
    token = program // spans
    here = program % spans
    end = tl.minimum((here + 1) * span, tl.load(lengths + token))
    table = pages + tl.load(sequence + token) * page_count
    mine = scores + program.to(tl.int64) * room
    where = places + program.to(tl.int64) * room
    goal = out + program.to(tl.int64) * k
    held = tl.zeros([1], tl.int32)
    threshold = tl.zeros([1], tl.int32) + SIGN  # below every key
    for begin in range(here * span, end, block):
        position = begin + tl.arange(0, block)
        mask = position < end
        if exact:
            score = exact_score(
                token,
                position,
                mask,
                queries,
                query_exponents,
                w,
                keys,
                table,
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
        else:
            score = fast_score(
                token,
                position,
                mask,
                queries,
                w,
                keys,
                table,
                count,
                width,
                page_size,
                scale,
                wide,
                heads,
                block,
                depth,
            )
        key = order_key(score)
        entering = tl.sum(((key > threshold) & mask).to(tl.int32), 0)
        if tl.max(held, 0) + entering > room:
            tl.debug_barrier()
            threshold = keep_best(mine, where, tl.max(held, 0), k, where, sweep)
            held = tl.zeros([1], tl.int32) + k
        take = (key > threshold) & mask
        chosen = take.to(tl.int32)
        to = held + tl.cumsum(chosen, 0) - 1
        tl.store(mine + to, score, mask=take)
        tl.store(where + to, position, mask=take)
        held += tl.sum(chosen, 0)
    tl.debug_barrier()
    held_now = tl.max(held, 0)
    wanted = tl.minimum(held_now, k)
    if wanted > 0:
        keep_best(mine, where, held_now, wanted, goal, sweep)
    pad(goal, wanted, k, fill)
    tl.store(held_out + program + tl.arange(0, 1), tl.zeros([1], tl.int32) + wanted)


@triton.jit
def join_kernel(
    first,
    scores,
    places,
    helds,
    joined,
    joined_places,
    out,
    k,
    spans,
    room,
    sweep: tl.constexpr,
    fill: tl.constexpr,
):
    """The best k of the spans' best: out [tokens, k]; `joined` [tokens, spans * k] is scratch."""
    token = tl.program_id(0) + first
    mine = joined + token.to(tl.int64) * spans * k
    where = joined_places + token.to(tl.int64) * spans * k
    held = tl.zeros([1], tl.int32)
    for here in range(spans):
        program = token * spans + here
        some = tl.load(helds + program)
        source = scores + program.to(tl.int64) * room
        named = places + program.to(tl.int64) * k
        for begin in range(0, some, sweep):
            column = begin + tl.arange(0, sweep)
            mask = column < some
            to = tl.max(held, 0) + column
            tl.store(mine + to, tl.load(source + column, mask=mask, other=0.0), mask=mask)
            tl.store(where + to, tl.load(named + column, mask=mask, other=0), mask=mask)
        held += some
    tl.debug_barrier()
    held_now = tl.max(held, 0)
    wanted = tl.minimum(held_now, k)
    goal = out + token.to(tl.int64) * k
    if wanted > 0:
        keep_best(mine, where, held_now, wanted, goal, sweep)
    pad(goal, wanted, k, fill)


def _stream(
    exactly: bool,
    q: Tensor,
    w: Tensor,
    keys: Tensor,
    page_size: int,
    context: PagedContext,
    scale: float,
    k: int,
    target: Target,
) -> Tensor:
    """Select without a matrix of scores."""
    tokens, count, width = q.shape
    tile = "exact_select" if exactly else "fast_select"
    span, spans = _spans(tokens, context.max_length, k, target.programs)
    room = max(padded(2 * k), padded(k + target.tile(tile).sizes["block"]))
    made: dict[str, Any] = {"device": q.device}
    scores = torch.empty(tokens * spans, room, dtype=torch.float32, **made)
    places = torch.empty(tokens * spans, room, dtype=torch.int32, **made)
    chosen = torch.empty(tokens * spans, k, dtype=torch.int32, **made)
    helds = torch.empty(tokens * spans, dtype=torch.int32, **made)
    if exactly:
        rows = cut(q.flatten(0, 1), target, ACTIVATION_DIGITS)
        queries, exponents, plane = rows.planes, rows.exponents, rows.planes.stride(0)
    else:
        queries, exponents, plane = q.contiguous(), helds, 0
    sweep = min(padded(room), 2048)
    fill = min(padded(k), 1024)
    target.launch(
        select_kernel,
        tokens * spans,
        *(queries, exponents, w.contiguous(), keys, context.page_table, context.sequence),
        *(context.lengths, scores, places, chosen, helds, plane, count, width),
        *(k, spans, span, room, context.page_table.shape[1], page_size, scale),
        tile=tile,
        exact=exactly,
        wide=target.widens(q.dtype),
        digits=digits_of(keys.dtype),
        heads=padded(count),
        sweep=sweep,
        fill=fill,
    )
    if spans == 1:
        return chosen
    joined = torch.empty(tokens, spans * k, dtype=torch.float32, **made)
    joined_places = torch.empty(tokens, spans * k, dtype=torch.int32, **made)
    out = torch.empty(tokens, k, dtype=torch.int32, **made)
    arguments = (scores, chosen, helds, joined, joined_places, out, k, spans, room)
    target.launch(join_kernel, tokens, *arguments, tile="join_select", sweep=sweep, fill=fill)
    return out


def _spans(tokens: int, longest: int, k: int, programs: int) -> tuple[int, int]:
    """(keys of a span, spans): one span a token unless that leaves the chip unused.

    A span of fewer than 2k keys would spare its successors little.
    """
    wanted = max(1, programs // max(tokens, 1))
    span = max(tiles_of(longest, wanted), 2 * k)
    return span, max(1, tiles_of(longest, span))


def _apart(
    score: Callable[..., Tensor],
    q: Tensor,
    w: Tensor,
    keys: Tensor,
    page_size: int,
    context: PagedContext,
    scale: float,
    k: int,
    target: Target,
) -> Tensor:
    """Select by way of scores of as many tokens as scratch holds."""
    tokens = max(1, target.scratch // (4 * max(context.max_length, 1)))
    chosen = []
    for start in range(0, q.shape[0], tokens):
        some = slice(start, start + tokens)
        part = replace(context, sequence=context.sequence[some], lengths=context.lengths[some])
        scores = score(q[some], w[some], keys, page_size, part, scale, target)
        chosen.append(topk.run(scores, part.lengths, k, target))
    if len(chosen) == 1:
        return chosen[0]
    return torch.cat(chosen) if chosen else context.lengths.new_empty(0, k)


def exact(
    q: Tensor,
    w: Tensor,
    keys: Tensor,
    page_size: int,
    context: PagedContext,
    scale: float,
    k: int,
    target: Target,
) -> Tensor:
    """Positions [T, k] of the best keys [slots, D] for q [T, H, D] and w [T, H]."""
    arguments = (q, w, keys, page_size, context, scale, k, target)
    return _stream(True, *arguments) if target.barriers else _apart(index_scores.exact, *arguments)


def fast(
    q: Tensor,
    w: Tensor,
    keys: Tensor,
    page_size: int,
    context: PagedContext,
    scale: float,
    k: int,
    target: Target,
) -> Tensor:
    """Positions [T, k] of the best keys [slots, D] for q [T, H, D] and w [T, H]."""
    arguments = (q, w, keys, page_size, context, scale, k, target)
    return _stream(False, *arguments) if target.barriers else _apart(index_scores.fast, *arguments)
