"""Faults of muon_orthogonalize in the exact profile."""

import torch
from torch import Tensor

from glm5_hal.conformance.mutants.mutant import Portable, mutant


@mutant(
    "muon-unscaled",
    "MUON-EXACT-1",
    "The matrix is divided by its norm without the power of two before it.",
)
class UnscaledMuon(Portable):
    def muon_orthogonalize(self, g: Tensor, steps: int = 5) -> Tensor:
        wide = g.double()
        norm = wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-300)
        scaled = torch.where(wide.isfinite().all(-1).all(-1)[:, None, None], wide / norm, torch.nan)
        return super().muon_orthogonalize(scaled.float().to(g.dtype), steps)


@mutant(
    "muon-float-steps",
    "MUON-EXACT-2",
    "The products of a step are float32 matrix products.",
)
class FloatStepsMuon(Portable):
    def muon_orthogonalize(self, g: Tensor, steps: int = 5) -> Tensor:
        start = super().muon_orthogonalize(g, 0).float()
        a, b, c = 3.4445, -4.7750, 2.0315
        tall = g.shape[1] > g.shape[2]
        x = start.mT if tall else start
        for _ in range(steps):
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
        return (x.mT if tall else x).to(g.dtype).contiguous()


@mutant(
    "muon-nan-where-it-falls",
    "MUON-EXACT-3",
    "Rows without NaN are iterated on, as if the others were zeros.",
)
class NanWhereItFallsMuon(Portable):
    def muon_orthogonalize(self, g: Tensor, steps: int = 5) -> Tensor:
        spoiled = ~g.isfinite().all(-1, keepdim=True)
        out = super().muon_orthogonalize(torch.where(spoiled, 0.0, g), steps)
        return torch.where(spoiled, torch.nan, out)
