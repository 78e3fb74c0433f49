"""Faults of sample."""

import torch
from torch import Tensor

from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.conformance.mutants.mutant import mutant
from glm5_hal.ops.sample import DRAW_BITS


@mutant(
    "sample-greedy-last",
    "SAMPLE-1",
    "The arg-max of a reduction tree keeps the highest id of a tie.",
)
class GreedyLastSample(CpuBackend):
    def sample(self, logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> Tensor:
        out = super().sample(logits, temperature, top_p, draws)
        mirrored = super().sample(logits.flip(1), temperature, top_p, draws)
        return torch.where(temperature > 0, out, logits.shape[1] - 1 - mirrored)


@mutant(
    "sample-top-p-too-short",
    "SAMPLE-2",
    "The id at which the mass reaches top_p is left out, off by one.",
)
class TopPTooShortSample(CpuBackend):
    def sample(self, logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> Tensor:
        out = super().sample(logits, temperature, top_p, draws)
        for row in (temperature > 0).nonzero().flatten().tolist():
            p = torch.softmax(logits[row].double() / temperature[row], dim=-1)
            mass, order = torch.sort(p, descending=True, stable=True)
            mass = mass.cumsum(0)
            last = max(1, int((mass <= top_p[row]).sum())) - 1
            target = (draws[row] + 0.5) / 2**DRAW_BITS * mass[last]
            out[row] = order[min(int((mass <= target).sum()), last)]
        return out


@mutant(
    "sample-nothing-kept",
    "SAMPLE-2",
    "Where the first id alone has more than top_p, nothing is kept, and the last id comes out.",
)
class NothingKeptSample(CpuBackend):
    def sample(self, logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> Tensor:
        out = super().sample(logits, temperature, top_p, draws)
        heat = torch.where(temperature > 0, temperature, 1.0).unsqueeze(-1)
        alone = torch.softmax(logits / heat, -1).amax(-1) > top_p
        return torch.where(alone & (temperature > 0), logits.shape[1] - 1, out)


@mutant(
    "sample-top-p-untempered",
    "SAMPLE-2",
    "The ids to keep are found before the temperature is applied.",
)
class TopPUntemperedSample(CpuBackend):
    def sample(self, logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> Tensor:
        p, order = torch.sort(torch.softmax(logits.double(), -1), descending=True, stable=True)
        gone = p.cumsum(-1) - p >= top_p.unsqueeze(-1)
        gone[:, 0] = False
        cut = logits.masked_fill(torch.zeros_like(gone).scatter(1, order, gone), -torch.inf)
        whole = torch.ones_like(top_p)
        return super().sample(cut, temperature, torch.where(temperature > 0, whole, top_p), draws)


@mutant(
    "sample-own-generator",
    "SAMPLE-3",
    "The kernel asks the library's generator instead of the draws that it is given.",
)
class OwnGeneratorSample(CpuBackend):
    def sample(self, logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> Tensor:
        own = torch.randint(0, 1 << DRAW_BITS, draws.shape, dtype=torch.int32)
        return super().sample(logits, temperature, top_p, own)


@mutant(
    "sample-draws-compacted",
    "SAMPLE-4",
    "Greedy rows are taken out of the batch, and the draws are counted without them.",
)
class DrawsCompactedSample(CpuBackend):
    def sample(self, logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> Tensor:
        place = ((temperature > 0).long().cumsum(0) - 1).clamp(min=0)
        return super().sample(logits, temperature, top_p, draws[place])
