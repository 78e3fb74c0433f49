"""Summing expert rows back into tokens, in slot order."""

from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import ACT, F32, I32, Array, Kind, op
from glm5_hal.exact import read, write


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


@moe_combine.exact(
    requirements={
        "COMBINE-EXACT-1": "acc = +0; for each slot in order acc = acc + read(row) * read(weight), "
        "product and sum each rounded to float32; then acc + read(shared); y = write(acc).",
    }
)
def fixed_point(
    rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None = None
) -> Tensor:
    """A chain of float32 operations in slot order."""
    k = weights.shape[1]
    by_slot = torch.empty_like(rows)
    by_slot[slots.long()] = rows
    total = rows.new_zeros(weights.shape[0], rows.shape[1], dtype=torch.float32)
    for slot in range(k):
        total = total + read(by_slot[slot::k]) * read(weights[:, slot : slot + 1])
    if shared is not None:
        total = total + read(shared)
    return write(total, rows.dtype)
