"""Choosing the next token."""

from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import F32, I32, Array, Kind, op
from glm5_hal.exact import READ, divide, exp

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


@sample.exact(
    requirements={
        "SAMPLE-EXACT-1": "P = round(exp((logit - largest logit) / temperature) * 2^24), "
        "difference and quotient rounded to float32: integers. Temperatures below 2^-50 and those "
        "that are not finite count as 0, and so does that of a row that holds NaN or +Inf, or "
        "nothing but -Inf.",
        "SAMPLE-EXACT-2": "Ids stand by P descending, then id ascending. With F the sum of all P: "
        "kept are those before which less than top_p * F has accumulated (top_p as "
        "round(top_p * 2^24) / 2^24), and always the first; with K their sum, the id is the first "
        "whose accumulated P exceeds K * (2 draw + 1) / 2^25. All of it in integers.",
    }
)
def fixed_point(logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> Tensor:
    """Integer weights, summed and compared exactly. Rows are taken one at a time."""
    rows = [
        _draw(row, heat, limit, draw) if _is_drawn(row, heat) else _greedy(row)
        for row, heat, limit, draw in zip(
            logits, temperature, top_p.tolist(), draws.tolist(), strict=True
        )
    ]
    return torch.tensor(rows, dtype=torch.int32, device=logits.device)


def _is_drawn(row: Tensor, temperature: Tensor) -> bool:
    warm = bool((temperature >= READ) & (temperature < torch.inf))
    return warm and bool((row < torch.inf).all() and (row > -torch.inf).any())


def _greedy(row: Tensor) -> int:
    return int(torch.sort(row, descending=True, stable=True).indices[0])


def _draw(row: Tensor, temperature: Tensor, top_p: float, draw: int) -> int:
    weights = exp(divide(row - row.max(), temperature))
    weights = torch.round(weights.double() * 2.0**DRAW_BITS).long()
    weights, order = torch.sort(weights, descending=True, stable=True)
    mass = weights.cumsum(0)
    limit = round(top_p * 2**DRAW_BITS) * int(mass[-1])  # 2^24 times the mass to accumulate
    first = -(-limit // 2**DRAW_BITS)  # less than limit / 2^24 is less than its ceiling
    last = max(int(((mass - weights) < first).sum()), 1) - 1
    target = int(mass[last]) * (2 * draw + 1) // 2 ** (DRAW_BITS + 1)
    return int(order[int((mass <= target).sum())])
