"""DSA selection: index scores and top-k in one, so that a score matrix need never exist."""

from typing import Annotated

from torch import Tensor

from glm5_hal.contract import ACT, F32, I32, Array, Kind, op
from glm5_hal.handles import Cache, PagedContext
from glm5_hal.ops.index_scores import index_scores
from glm5_hal.ops.topk import topk


@op(
    Kind.COMPOSITE,
    requirements={
        "DSA-SELECT-1": "The result equals topk(index_scores(...), lengths, k) of the same "
        "backend, to the byte.",
        "DSA-SELECT-2": "Row t is the same in any batch, chunking and page order.",
    },
)
def dsa_select(
    q: Annotated[Tensor, Array("T H D", ACT)],
    w: Annotated[Tensor, Array("T H", F32)],
    keys: Annotated[Cache, Array("slots D", ACT)],
    context: PagedContext,
    scale: float,
    k: int,
) -> Annotated[Tensor, Array("T k", I32)]:
    """Ascending positions [T, k] that each token attends to, padded with -1."""
    scores = index_scores.reference(q, w, keys, context, scale)
    return topk.reference(scores, context.lengths, k)


@dsa_select.composition
def scored(
    q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float, k: int
) -> Tensor:
    """The two ops one after the other, through a full [T, max_length] score matrix."""
    return topk(index_scores(q, w, keys, context, scale), context.lengths, k)
