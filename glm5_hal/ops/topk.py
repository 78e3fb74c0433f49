"""Top-k in a total order: the op whose ties decided GLM-5's training."""

from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import F32, I32, Array, Kind, op


def order_key(scores: Tensor) -> Tensor:
    """int32 keys that order float32 scores as TOPK-4 says: -0 equals +0, NaN above +Inf."""
    bits = scores.contiguous().view(torch.int32)  # no arithmetic: it might flush small scores
    bits = torch.where(bits == torch.iinfo(torch.int32).min, 0, bits)  # -0.0
    keys = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return torch.where(scores.isnan(), torch.iinfo(torch.int32).max, keys)


@op(
    Kind.PRIMITIVE,
    requirements={
        "TOPK-1": "Set: the k best of columns [0, lengths[t]) by score descending; among equal "
        "scores the lowest index wins.",
        "TOPK-2": "Order: the chosen indices ascend.",
        "TOPK-3": "Padding: when lengths[t] < k the row ends in -1.",
        "TOPK-4": "-0.0 equals +0.0; NaN is above +Inf, and all NaN are equal.",
        "TOPK-5": "Row t depends on its own scores and length alone: not on what stands behind "
        "the length, on S, or on other rows.",
    },
)
def topk(
    scores: Annotated[Tensor, Array("T S", F32)],
    lengths: Annotated[Tensor, Array("T", I32)],
    k: int,
) -> Annotated[Tensor, Array("T k", I32)]:
    """Indices [T, k] of the k best scores of each row, ascending, padded with -1.

    Scores are sums of ReLUs, so rows are often cut inside a plateau of exact zeros. `torch.topk`
    promises no tie order; here the order is total. Source: GLM-5 (2602.15763) section 3.2.
    """
    out = torch.full((scores.shape[0], k), -1, dtype=torch.int32, device=scores.device)
    for row, length in enumerate(lengths.tolist()):
        keys = order_key(scores[row, :length])
        best = torch.sort(keys, descending=True, stable=True).indices[:k]
        out[row, : best.numel()] = best.sort().values
    return out
