"""Newton-Schulz orthogonalisation in float32."""

import torch
from torch import Tensor

from glm5_hal.ops.muon_orthogonalize import COEFFICIENTS

SMALLEST = torch.finfo(torch.float32).tiny


def orthogonalize(g: Tensor, steps: int) -> Tensor:
    """As the contract's muon_orthogonalize: [B, m, n]. Matrices are taken one at a time."""
    return torch.stack([_one(matrix, steps) for matrix in g]) if g.shape[0] else g.clone()


def _one(g: Tensor, steps: int) -> Tensor:
    a, b, c = COEFFICIENTS
    tall = g.shape[0] > g.shape[1]
    x = (g.T if tall else g).float().contiguous()
    # scaled by the largest element first, so that squares neither overflow nor vanish
    x = x / x.abs().max().clamp(min=SMALLEST)
    x = x / x.square().sum(-1).sum().sqrt().clamp(min=SMALLEST)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.T if tall else x).to(g.dtype)
