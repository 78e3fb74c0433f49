"""Choosing the next token, in float64."""

import torch
from torch import Tensor

from glm5_hal.ops.sample import DRAW_BITS


def sample(logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> Tensor:
    """As the contract's sample: ids [T] int32. Rows are taken one at a time."""
    rows = [
        _greedy(row) if heat == 0 else _draw(row, heat, limit, draw)
        for row, heat, limit, draw in zip(
            logits, temperature.tolist(), top_p.tolist(), draws.tolist(), strict=True
        )
    ]
    return torch.tensor(rows, dtype=torch.int32)


def _greedy(row: Tensor) -> int:
    # argmax promises no index among equals
    return int((row == row.max()).nonzero()[0]) if not row.isnan().any() else _nan(row)


def _nan(row: Tensor) -> int:
    return int(row.isnan().nonzero()[0])


def _draw(row: Tensor, temperature: float, top_p: float, draw: int) -> int:
    wide = row.double() / temperature
    weight, order = torch.sort(torch.exp(wide - wide.max()), descending=True, stable=True)
    mass = weight.cumsum(0)  # one row: summed from left to right
    kept = (mass - weight) < top_p * mass[-1]
    kept[0] = True
    last = int(kept.nonzero()[-1])
    target = (draw + 0.5) / 2**DRAW_BITS * mass[last]
    return int(order[min(int((mass <= target).sum()), last)])
