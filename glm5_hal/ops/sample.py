"""Choosing the next token."""

from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import F32, I32, Array, Kind, op

DRAW_BITS = 24
"""A draw is an integer in [0, 2^24): exact in float32."""


@op(
    Kind.PRIMITIVE,
    requirements={
        "SAMPLE-1": "temperature[t] = 0 takes the largest logit and, among equals, the lowest id.",
        "SAMPLE-2": "Otherwise p = softmax(logits[t] / temperature[t]); ids stand in order of p "
        "descending, ties by id ascending; kept are those before which less than top_p[t] has "
        "accumulated, and always the first.",
        "SAMPLE-3": "The id is the first kept one whose accumulated probability exceeds "
        "(draws[t] + 0.5) / 2^24 of the kept mass: the draw decides, and nothing else is random.",
        "SAMPLE-4": "Row t depends on its own logits, parameters and draw alone.",
    },
)
def sample(
    logits: Annotated[Tensor, Array("T V", F32)],
    temperature: Annotated[Tensor, Array("T", F32)],
    top_p: Annotated[Tensor, Array("T", F32)],
    draws: Annotated[Tensor, Array("T", I32)],
) -> Annotated[Tensor, Array("T", I32)]:
    """Token ids [T]. Randomness enters as data: `draws` [T] in [0, 2^24)."""
    wide = logits.double()
    greedy = torch.sort(wide, dim=-1, descending=True, stable=True).indices[:, 0]
    heat = torch.where(temperature > 0, temperature, 1.0).double().unsqueeze(-1)
    p, order = torch.sort(torch.softmax(wide / heat, -1), dim=-1, descending=True, stable=True)
    before = p.cumsum(-1) - p
    kept = torch.where(before < top_p.double().unsqueeze(-1), p, 0.0)
    kept[:, :1] = p[:, :1]
    mass = kept.cumsum(-1)
    target = (draws.double().unsqueeze(-1) + 0.5) / 2**DRAW_BITS * mass[:, -1:]
    place = (mass <= target).sum(-1, keepdim=True).clamp(max=logits.shape[1] - 1)
    drawn = order.gather(1, place).squeeze(1)
    return torch.where(temperature > 0, drawn, greedy).int()
