"""Expert routing: sigmoid scores, bias-corrected choice, group limits."""

from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import F32, I32, Array, Kind, op
from glm5_hal.exact import divide, read, sigmoid, write
from glm5_hal.handles import Weight

TINY_TOTAL = 1e-20
"""Added to the sum of the chosen scores, as in the published code."""


def _best(keys: Tensor, k: int) -> Tensor:
    """Columns of the k largest of each row, ties to the lowest, ascending: [T, k]."""
    ranked = torch.sort(keys, dim=-1, descending=True, stable=True).indices
    return ranked[:, :k].sort(dim=-1).values


@op(
    Kind.PRIMITIVE,
    requirements={
        "ROUTE-1": "s = sigmoid(logits) in float32 or wider. Experts are chosen by s + bias in "
        "float32; the weights use s alone.",
        "ROUTE-2": "Group limits: a group's score is the sum of its two largest s + bias; only "
        "experts of the topk_group best groups may be chosen.",
        "ROUTE-3": "Both choices take the largest first and, among equals, the lowest index.",
        "ROUTE-4": "The chosen ids ascend within a row; weights[t, j] belongs to ids[t, j].",
        "ROUTE-5": "normalize divides each weight by their sum (taken in slot order) + 1e-20; "
        "then every weight is multiplied by scale.",
        "ROUTE-6": "Row t depends on row t of the logits and on the bias alone.",
    },
)
def moe_route(
    logits: Annotated[Tensor, Array("T E", F32)],
    bias: Annotated[Weight, Array("E", F32)],
    k: int,
    n_group: int,
    topk_group: int,
    normalize: bool,
    scale: float,
) -> tuple[Annotated[Tensor, Array("T k", I32)], Annotated[Tensor, Array("T k", F32)]]:
    """(ids, weights), each [T, k]: the experts of each token and their combine weights.

    Source: DeepSeek-V3 (2412.19437) section 2.1.2, `noaux_tc`; GLM-5 has one group.
    """
    scores = torch.sigmoid(logits.double()).float()
    choice = scores + bias.tensor
    if n_group > 1:
        choice = _in_groups(choice, n_group, topk_group)
    ids = _best(choice, k)
    weights = scores.gather(1, ids).double()
    if normalize:
        weights = weights / (weights.sum(-1, keepdim=True) + TINY_TOTAL)
    return ids.int(), (weights * scale).float()


@moe_route.exact(
    requirements={
        "ROUTE-EXACT-1": "s = read(sigmoid(logit)), chosen by s + read(bias); a group's score is "
        "the rounded sum of its two largest.",
        "ROUTE-EXACT-2": "total = the chosen s added in slot order from +0; "
        "weight = write((s / (total + 1e-20)) * scale), or write(s * scale) without normalize.",
    }
)
def fixed_point(
    logits: Tensor,
    bias: Weight,
    k: int,
    n_group: int,
    topk_group: int,
    normalize: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """One sigmoid per expert, then comparisons and a short chain of float32 operations."""
    scores = read(sigmoid(logits))
    choice = scores + read(bias.tensor)
    if n_group > 1:
        choice = _in_groups(choice, n_group, topk_group)
    ids = _best(choice, k)
    weights = scores.gather(1, ids)
    if normalize:
        total = torch.zeros_like(weights[:, 0])
        for slot in range(k):
            total = total + weights[:, slot]
        weights = divide(weights, (total + TINY_TOTAL).unsqueeze(1))
    return ids.int(), write(weights * torch.tensor(scale), torch.float32)


def _in_groups(choice: Tensor, n_group: int, topk_group: int) -> Tensor:
    """-Inf for the experts of all but the best groups."""
    groups: Tensor = choice.unflatten(1, (n_group, -1))  # [T, G, E / G]
    top = torch.sort(groups, dim=-1, descending=True).values
    best = _best(top[..., 0] + top[..., 1], topk_group)
    kept = torch.zeros(groups.shape[:2], dtype=torch.bool, device=choice.device)
    kept.scatter_(1, best, torch.ones_like(best, dtype=torch.bool))
    return groups.masked_fill(~kept.unsqueeze(-1), -torch.inf).flatten(1)
