"""Newton-Schulz orthogonalisation of Muon, one matrix per head (Muon Split)."""

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import FLOAT, Array, Kind, op
from glm5_hal.exact import (
    ACTIVATION_DIGITS,
    contract,
    divide,
    fixed,
    power,
    read,
    square_root,
    square_sum,
    write,
)

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Quintic a, b, c of the Muon write-up (K. Jordan 2024), used by Moonlight (2502.16982)."""
SMALLEST = 2.0**-126
"""The smallest normal number."""


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


@muon_orthogonalize.exact(
    requirements={
        "MUON-EXACT-1": "With e the exponent of the largest magnitude of the matrix, "
        "g' = g * 2^-e (wide form; subnormal elements of g count as zero). Rows of g' are fixed "
        "with 3 digits; their sums of squares, rounded to float32 with their exponents, are one "
        "vector fixed with 3 digits, whose exact sum, rounded to float32, is the squared norm. "
        "X = read(g') * (1 / root(squared norm)).",
        "MUON-EXACT-2": "A step: A = X X^T and A A by exact sums of rows fixed with 3 digits; "
        "B = read(b) * read(A) + read(c) * read(A A); B X by exact sums of B's rows and X's "
        "columns, fixed with 3 digits; X = a * read(X) + B X. Products and sums are rounded one "
        "by one, a, b, c to float32.",
        "MUON-EXACT-3": "NaN or Inf in a matrix makes all of its result NaN.",
    }
)
def fixed_point(g: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz on exact products, one matrix at a time."""
    return torch.stack([one_matrix(m, steps, _times) for m in g]) if g.shape[0] else g.clone()


def one_matrix(g: Tensor, steps: int, times: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The exact rule for one matrix [m, n]; `times` takes rows with rows by exact sums."""
    a, b, c = (torch.tensor(value) for value in COEFFICIENTS)
    tall = g.shape[0] > g.shape[1]
    whole = fixed(g.flatten(), ACTIVATION_DIGITS)
    if not bool(whole.finite):
        return write(torch.full(g.shape, torch.nan), g.dtype)
    if not whole.integers.any():
        return torch.zeros_like(g)
    normal = torch.where(g.float().abs() < SMALLEST, 0.0, g.float())
    wide = ((normal.mT if tall else normal).double() * power(-whole.exponent)).float()
    rows = fixed(wide, ACTIVATION_DIGITS)
    squares = (square_sum(rows).float().double() * power(2 * (rows.exponent - rows.bits))).float()
    parts = fixed(squares, ACTIVATION_DIGITS)
    total = parts.integers.sum().long().float().double() * power(parts.exponent - parts.bits)
    x = read(wide) * divide(torch.ones(()), square_root(total.float()))
    for _ in range(steps):
        gram = times(x, x)
        mixed = b * read(gram) + c * read(times(gram, gram))
        x = a * read(x) + times(mixed, x.mT)
    return write(x.mT if tall else x, g.dtype).contiguous()


def _times(x: Tensor, y: Tensor) -> Tensor:
    """Rows of x with rows of y, by exact sums."""
    return contract(fixed(x, ACTIVATION_DIGITS), fixed(y, ACTIVATION_DIGITS))
