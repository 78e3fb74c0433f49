"""Faults of muon_orthogonalize."""

import torch
from torch import Tensor

from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.conformance.mutants.mutant import mutant
from glm5_hal.ops.muon_orthogonalize import COEFFICIENTS


def _iterate(x: Tensor, steps: int) -> Tensor:
    """Newton-Schulz of scaled matrices [B, m, n] as they are."""
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x


@mutant(
    "muon-one-step-less",
    "MUON-1",
    "The first of the five steps is taken for the scaling that precedes them.",
)
class OneStepLessMuon(CpuBackend):
    def muon_orthogonalize(self, g: Tensor, steps: int = 5) -> Tensor:
        return super().muon_orthogonalize(g, steps - 1)


@mutant(
    "muon-always-five-steps",
    "MUON-1",
    "The number of steps is a constant of the kernel.",
)
class AlwaysFiveStepsMuon(CpuBackend):
    def muon_orthogonalize(self, g: Tensor, steps: int = 5) -> Tensor:
        return super().muon_orthogonalize(g, 5)


@mutant(
    "muon-tall-as-it-is",
    "MUON-2",
    "A matrix with more rows than columns is iterated as it is, with the larger Gram matrix.",
)
class TallAsItIsMuon(CpuBackend):
    def muon_orthogonalize(self, g: Tensor, steps: int = 5) -> Tensor:
        if g.shape[1] <= g.shape[2]:
            return super().muon_orthogonalize(g, steps)
        wide = g.float()
        return _iterate(wide / wide.norm(dim=(1, 2), keepdim=True), steps).to(g.dtype)


@mutant(
    "muon-one-norm",
    "MUON-3",
    "Muon Split is written as a batch, and the Frobenius norm is taken over all of it.",
)
class OneNormMuon(CpuBackend):
    def muon_orthogonalize(self, g: Tensor, steps: int = 5) -> Tensor:
        tall = g.shape[1] > g.shape[2]
        wide = (g.mT if tall else g).float()
        out = _iterate(wide / wide.norm().clamp(min=1e-30), steps)
        return (out.mT if tall else out).to(g.dtype)


@mutant(
    "muon-zero-by-zero",
    "MUON-4",
    "A matrix whose gradient is zero is divided by its norm.",
)
class ZeroByZeroMuon(CpuBackend):
    def muon_orthogonalize(self, g: Tensor, steps: int = 5) -> Tensor:
        out = super().muon_orthogonalize(g, steps)
        zero = (g == 0).all(-1).all(-1).reshape(-1, 1, 1)
        return torch.where(zero, torch.nan, out)
