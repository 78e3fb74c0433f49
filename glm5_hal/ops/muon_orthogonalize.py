"""Newton-Schulz orthogonalisation of Muon, one matrix per head (Muon Split)."""

from typing import Annotated

from torch import Tensor

from glm5_hal.contract import FLOAT, Array, Kind, op

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Quintic a, b, c of the Muon write-up (K. Jordan 2024), used by Moonlight (2502.16982)."""


@op(
    Kind.PRIMITIVE,
    requirements={
        "MUON-1": "X = G / ||G||_F; then `steps` times A = X X^T, X = a X + (b A + c A^2) X with "
        "(a, b, c) = (3.4445, -4.7750, 2.0315); in float32 or wider, rounded once.",
        "MUON-2": "A matrix with more rows than columns is iterated in transposed form; the "
        "result has the shape of the input.",
        "MUON-3": "Each matrix of the batch is orthogonalised alone.",
        "MUON-4": "An all-zero matrix gives zeros.",
    },
)
def muon_orthogonalize(
    g: Annotated[Tensor, Array("B m n", FLOAT)], steps: int = 5
) -> Annotated[Tensor, Array("B m n", FLOAT)]:
    """Approximately orthogonal [B, m, n] for momentum matrices g [B, m, n].

    Source: Moonlight (2502.16982) section 2; GLM-5 (2602.15763) cuts q_b and kv_b by head.
    """
    a, b, c = COEFFICIENTS
    tall = g.shape[1] > g.shape[2]
    x = g.double().mT if tall else g.double()
    norm: Tensor = x.norm(dim=(1, 2), keepdim=True)
    x = x / norm.clamp(min=1e-300)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(g.dtype)
