"""Expert routing: sigmoid scores, bias-corrected choice, group limits."""

from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import F32, I32, Array, Kind, op
from glm5_hal.handles import Weight


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
        groups = choice.unflatten(1, (n_group, -1))  # [T, G, E / G]
        best = _best(groups.topk(2, dim=-1).values.sum(-1), topk_group)
        kept = torch.zeros(groups.shape[:2], dtype=torch.bool, device=logits.device)
        kept.scatter_(1, best, torch.ones_like(best, dtype=torch.bool))
        choice = groups.masked_fill(~kept.unsqueeze(-1), -torch.inf).flatten(1)
    ids = _best(choice, k)
    weights = scores.gather(1, ids).double()
    if normalize:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return ids.int(), (weights * scale).float()
