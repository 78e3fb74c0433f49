"""Faults of moe_route and sample in the exact profile."""

import torch
from torch import Tensor

from glm5_hal import Weight
from glm5_hal.conformance.mutants.mutant import Portable, mutant
from glm5_hal.exact import divide, read, sigmoid, write
from glm5_hal.ops.moe_route import TINY_TOTAL


@mutant(
    "route-choice-unrounded",
    "ROUTE-EXACT-1",
    "Scores and bias are added, and compared, in float64.",
)
class UnroundedChoice(Portable):
    def moe_route(
        self,
        logits: Tensor,
        bias: Weight,
        k: int,
        n_group: int,
        topk_group: int,
        normalize: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        scores = read(sigmoid(logits))
        if n_group > 1 or not bool(scores.isfinite().all()):
            return super().moe_route(logits, bias, k, n_group, topk_group, normalize, scale)
        choice = scores.double() + read(bias.tensor).double()
        ranked = torch.sort(choice, dim=-1, descending=True, stable=True).indices
        ids = ranked[:, :k].sort(dim=-1).values
        weights = scores.gather(1, ids)
        if normalize:
            total = torch.zeros_like(weights[:, 0])
            for slot in range(k):
                total = total + weights[:, slot]
            weights = divide(weights, (total + TINY_TOTAL).unsqueeze(1))
        return ids.int(), write(weights * torch.tensor(scale), torch.float32)


@mutant(
    "route-scale-over-total",
    "ROUTE-EXACT-2",
    "The quotient scale / total is taken once a row, then multiplied by each score.",
)
class ScaleOverTotal(Portable):
    def moe_route(
        self,
        logits: Tensor,
        bias: Weight,
        k: int,
        n_group: int,
        topk_group: int,
        normalize: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        ids, weights = super().moe_route(logits, bias, k, n_group, topk_group, False, 1.0)
        if not normalize:
            return ids, write(weights * torch.tensor(scale), torch.float32)
        total = torch.zeros_like(weights[:, 0])
        for slot in range(k):
            total = total + weights[:, slot]
        factor = divide(torch.tensor(scale), (total + TINY_TOTAL).unsqueeze(1))
        return ids, write(weights * factor, torch.float32)


@mutant(
    "sample-cold-by-zero",
    "SAMPLE-EXACT-1",
    "Only a temperature of zero is greedy; a tiny one divides.",
)
class ColdByZero(Portable):
    def sample(self, logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> Tensor:
        cold = (temperature > 0) & (temperature < 2.0**-50)
        warm = torch.where(cold, 1.0, temperature)
        return super().sample(logits, warm, top_p, draws)


@mutant(
    "sample-float-mass",
    "SAMPLE-EXACT-2",
    "The mass is summed in float32.",
)
class FloatMass(Portable):
    def sample(self, logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> Tensor:
        out = super().sample(logits, temperature, top_p, draws)
        for row in range(logits.shape[0]):
            if temperature[row] > 0 and bool(logits[row].isfinite().all()):
                out[row] = _float_draw(logits[row], temperature[row], top_p[row], draws[row])
        return out


def _float_draw(row: Tensor, temperature: Tensor, top_p: Tensor, draw: Tensor) -> int:
    weights, order = torch.sort(
        torch.softmax((row - row.max()) / temperature, -1), descending=True, stable=True
    )
    mass = weights.cumsum(0)
    kept = (mass - weights) < top_p
    kept[0] = True
    target = (draw + 0.5) / 2**24 * mass[int(kept.nonzero()[-1])]
    return int(order[min(int((mass <= target).sum()), row.shape[0] - 1)])
