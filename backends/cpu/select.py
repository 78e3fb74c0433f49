"""Index scores and top-k, blocked over queries so that no [T, S] matrix need exist."""

import torch
from torch import Tensor

from glm5_hal.backends.cpu.tiles import each_matmul
from glm5_hal.handles import Cache, PagedContext
from glm5_hal.ops.topk import order_key

QUERIES = 8
"""Queries scored at a time."""
KEYS = 512
"""Keys a tile; every product has this shape, so a score does not depend on the context length."""


def index_scores(q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float) -> Tensor:
    """As the contract's index_scores: [T, max_length] float32."""
    out = torch.full((q.shape[0], context.max_length), -torch.inf)
    for start, stop in _blocks(context):
        width = int(context.lengths[start:stop].max())
        out[start:stop, :width] = _block_scores(q, w, keys, context, scale, start, stop)
    return out


def select(
    q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float, k: int
) -> Tensor:
    """As the contract's dsa_select: [T, k] int32."""
    out = torch.empty(q.shape[0], k, dtype=torch.int32)
    for start, stop in _blocks(context):
        lengths = context.lengths[start:stop]
        if int(lengths.max()) <= k:
            out[start:stop] = _all(lengths, k)
        else:
            scores = _block_scores(q, w, keys, context, scale, start, stop)
            out[start:stop] = topk(scores, lengths, k)
    return out


def topk(scores: Tensor, lengths: Tensor, k: int) -> Tensor:
    """As the contract's topk: [T, k] int32.

    The k-th largest key is a value, so it does not depend on how ties are broken; above it all
    are taken, at it the first ones until k are reached.
    """
    columns = scores.shape[1]
    valid = torch.arange(columns) < lengths.unsqueeze(1)
    lowest = torch.iinfo(torch.int32).min  # below the key of -Inf
    keys = torch.where(valid, order_key(scores), lowest)
    out = torch.full((scores.shape[0], k), -1, dtype=torch.int32)
    take = min(k, columns)
    if take == 0:
        return out
    threshold = torch.topk(keys, take, dim=1).values[:, -1:]
    above = keys > threshold
    level = (keys == threshold) & valid
    room = take - above.sum(1, keepdim=True)
    chosen = above | (level & (level.cumsum(1) <= room))
    row, column = chosen.nonzero(as_tuple=True)
    out[row, chosen.cumsum(1)[row, column] - 1] = column.int()
    return out


def _all(lengths: Tensor, k: int) -> Tensor:
    """0, 1, 2, ... below each length, then -1: [T, k]."""
    place = torch.arange(k, dtype=torch.int32)
    return torch.where(place < lengths.unsqueeze(1), place, -1)


def _blocks(context: PagedContext) -> list[tuple[int, int]]:
    """Runs of at most `QUERIES` neighbouring tokens of one sequence."""
    sequence = context.sequence.tolist()
    cuts = [0]
    for token in range(1, len(sequence)):
        if sequence[token] != sequence[token - 1] or token - cuts[-1] == QUERIES:
            cuts.append(token)
    return list(zip(cuts, [*cuts[1:], len(sequence)], strict=True)) if sequence else []


def _block_scores(
    q: Tensor,
    w: Tensor,
    keys: Cache,
    context: PagedContext,
    scale: float,
    start: int,
    stop: int,
) -> Tensor:
    """Scores [stop - start, longest length] of tokens of one sequence; -Inf behind a length."""
    lengths = context.lengths[start:stop]
    width = int(lengths.max())
    pages = context.page_table[int(context.sequence[start])].long()
    query = q[start:stop].float()  # [Q, H, D]
    weight = (w[start:stop] * scale).unsqueeze(-1)  # [Q, H, 1]
    out = torch.empty(stop - start, -(-width // KEYS) * KEYS)
    for first in range(0, width, KEYS):
        column = torch.arange(first, first + KEYS).clamp(max=width - 1)
        slots = pages[column // keys.page_size] * keys.page_size + column % keys.page_size
        rows = keys.tensor[slots].float().T.expand(stop - start, -1, -1)  # [Q, D, KEYS]
        dots = torch.relu(each_matmul(query, rows))  # [Q, H, KEYS]
        out[:, first : first + KEYS] = (dots * weight).sum(1) + 0.0  # -0 becomes +0
    return out[:, :width].masked_fill(torch.arange(width) >= lengths.unsqueeze(1), -torch.inf)
