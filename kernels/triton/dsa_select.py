"""Index scores and top-k in one: scores of a few tokens at a time, in scratch of a bounded size."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from glm5_hal.handles import PagedContext
from glm5_hal.kernels.triton import index_scores, topk
from glm5_hal.kernels.triton.target import Target


def _run(
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
    return _run(index_scores.exact, q, w, keys, page_size, context, scale, k, target)


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
    return _run(index_scores.fast, q, w, keys, page_size, context, scale, k, target)
