"""RMSNorm with the residual addition that precedes it in every block."""

from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import ACT, F32, Array, Kind, op
from glm5_hal.exact import (
    ACTIVATION_DIGITS,
    Fixed,
    divide,
    fixed,
    power,
    read,
    square_root,
    square_sum,
    write,
)
from glm5_hal.handles import Weight


@op(
    Kind.PRIMITIVE,
    requirements={
        "RMS-NORM-1": "h = x + residual rounded once to x's dtype (h = x without a residual), and "
        "h is returned.",
        "RMS-NORM-2": "y[t, d] = h[t, d] / sqrt(mean over d of h[t, d]^2 + eps) * w[d], computed "
        "in float32 or wider from the rounded h and rounded once, after the weight.",
        "RMS-NORM-3": "Row t depends on row t of x and residual, and on w, alone.",
        "RMS-NORM-4": "An all-zero row gives zeros; NaN or Inf in a row stays in that row.",
    },
)
def rms_norm(
    x: Annotated[Tensor, Array("T D", ACT)],
    w: Annotated[Weight, Array("D", F32)],
    eps: float,
    residual: Annotated[Tensor, Array("T D", ACT)] | None = None,
) -> tuple[Annotated[Tensor, Array("T D", ACT)], Annotated[Tensor, Array("T D", ACT)]]:
    """(y, h): the normalised rows and the sum they were taken from, each [T, D].

    Source: Zhang and Sennrich 2019. One rounding after the weight, as in DeepSeek-V3's reference.
    """
    h = x if residual is None else (x.double() + residual.double()).to(x.dtype)
    wide = h.double()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale * w.tensor.double()).to(x.dtype), h


@rms_norm.exact(
    requirements={
        "RMS-NORM-EXACT-1": "h = write(read(x) + read(residual)).",
        "RMS-NORM-EXACT-2": "Row h is fixed with 3 digits; m = (sum of squares, rounded to "
        "float32) / D * 2^(2e - 44); r = 1 / root(m + eps); y = (read(h) * r) * read(w).",
    }
)
def fixed_point(
    x: Tensor, w: Weight, eps: float, residual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The mean square by an exact sum; everything else element by element."""
    h = x if residual is None else write(read(x) + read(residual), x.dtype)
    rows = fixed(h, ACTIVATION_DIGITS)
    mean = divide(square_sum(rows).float(), torch.tensor(float(h.shape[-1])))
    scale = inverse_deviation(mean, rows, rows.exponent, eps)
    return write((read(h) * scale) * read(w.tensor), x.dtype), h


def inverse_deviation(mean: Tensor, rows: Fixed, exponent: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean * 2^(2 exponent - 2 bits) + eps) as a column; NaN for rows that are not."""
    square = write(mean.double() * power(2 * (exponent - rows.bits)), torch.float32)
    root = square_root(square + torch.tensor(eps))
    value = divide(torch.ones_like(root), root)
    return torch.where(rows.finite, value, torch.nan).unsqueeze(-1)
