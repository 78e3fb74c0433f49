"""Summing expert rows back into tokens, in slot order."""

from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import ACT, F32, I32, Array, Kind, op


@op(
    Kind.PRIMITIVE,
    requirements={
        "COMBINE-1": "y[t] = sum over j = 0 .. k-1, in this order, of weights[t, j] * (row of slot "
        "t * k + j), then + shared[t]; float32 or wider, rounded once.",
        "COMBINE-2": "The result does not depend on the order of the experts' rows beyond what "
        "`slots` says, nor on other tokens.",
    },
)
def moe_combine(
    rows: Annotated[Tensor, Array("P D", ACT)],
    slots: Annotated[Tensor, Array("P", I32)],
    weights: Annotated[Tensor, Array("T k", F32)],
    shared: Annotated[Tensor, Array("T D", ACT)] | None = None,
) -> Annotated[Tensor, Array("T D", ACT)]:
    """Token rows [T, D] from expert rows [P, D] and the shared expert's output [T, D]."""
    by_slot = torch.empty_like(rows)
    by_slot[slots.long()] = rows
    per_slot: Tensor = by_slot.double().unflatten(0, weights.shape)  # [T, k, D]
    total = (per_slot * weights.double().unsqueeze(-1)).sum(1)
    return (total if shared is None else total + shared.double()).to(rows.dtype)
