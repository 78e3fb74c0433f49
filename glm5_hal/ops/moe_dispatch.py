"""Moving tokens into expert order."""

from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import ACT, I32, Array, Kind, op


@op(
    Kind.PRIMITIVE,
    requirements={
        "DISPATCH-1": "Slot f = t * k + j carries token t to expert ids[t, j]. The slots stand in "
        "order of expert, then of f (a stable counting sort); slots[p] is the p-th.",
        "DISPATCH-2": "Expert e owns rows [offsets[e], offsets[e + 1]); an expert without tokens "
        "owns none; offsets[E] = T * k: no token is dropped.",
        "DISPATCH-3": "rows[p] is x[slots[p] // k], byte for byte.",
    },
)
def moe_dispatch(
    x: Annotated[Tensor, Array("T D", ACT)],
    ids: Annotated[Tensor, Array("T k", I32)],
    experts: int,
) -> tuple[
    Annotated[Tensor, Array("P D", ACT)],
    Annotated[Tensor, Array("experts+1", I32)],
    Annotated[Tensor, Array("P", I32)],
]:
    """(rows [P, D], offsets [experts + 1], slots [P]) with P = T * k."""
    slots = torch.sort(ids.flatten(), stable=True).indices
    counts = torch.bincount(ids.flatten(), minlength=experts)
    offsets = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    return x[slots // ids.shape[1]], offsets.int(), slots.int()
