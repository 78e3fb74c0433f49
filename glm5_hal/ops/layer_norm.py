"""LayerNorm with weight and bias, for the indexer's key."""

from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import ACT, F32, Array, Kind, op
from glm5_hal.exact import (
    ACTIVATION_DIGITS,
    divide,
    fixed,
    power,
    read,
    square_sum,
    write,
)
from glm5_hal.handles import Weight
from glm5_hal.ops.rms_norm import inverse_deviation


@op(
    Kind.PRIMITIVE,
    requirements={
        "LAYER-NORM-1": "y[t, d] = (x[t, d] - mean) / sqrt(variance + eps) * w[d] + b[d] with the "
        "biased variance of row t, in float32 or wider, rounded once.",
        "LAYER-NORM-2": "Row t depends on row t of x, on w and on b alone.",
        "LAYER-NORM-3": "A constant row gives b; NaN or Inf in a row stays in that row.",
    },
)
def layer_norm(
    x: Annotated[Tensor, Array("T D", ACT)],
    w: Annotated[Weight, Array("D", F32)],
    b: Annotated[Weight, Array("D", F32)],
    eps: float,
) -> Annotated[Tensor, Array("T D", ACT)]:
    """Normalised rows [T, D]. Source: Ba et al. 2016."""
    wide = x.double()
    centred = wide - wide.mean(-1, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    return (centred * scale * w.tensor.double() + b.tensor.double()).to(x.dtype)


@layer_norm.exact(
    requirements={
        "LAYER-NORM-EXACT-1": "Row x is fixed to integers X with 3 digits; S = sum X; "
        "m = round(S / D); c = (X - m) - (S - D m) / D, the first difference exact, the division "
        "and the second difference rounded.",
        "LAYER-NORM-EXACT-2": "Row c is fixed with 3 digits; v = (sum of squares, rounded to "
        "float32) / D * 2^(2 (e_c + e - 44)) with e, e_c the two exponents; "
        "r = 1 / root(v + eps); y = (read(c * 2^(e - 22)) * r) * read(w) + read(b).",
    }
)
def fixed_point(x: Tensor, w: Weight, b: Weight, eps: float) -> Tensor:
    """Mean and variance by exact sums. A constant row has c = 0, whatever the division does."""
    rows = fixed(x, ACTIVATION_DIGITS)
    length = torch.tensor(float(x.shape[-1]))
    total = rows.integers.long().sum(-1, keepdim=True)
    mean = torch.round(divide(total.float(), length)).long()
    rest = divide((total - mean * x.shape[-1]).float(), length)
    centred = (rows.integers.long() - mean).float() - rest  # in units of 2^(e - 22)
    spread = fixed(centred, ACTIVATION_DIGITS)
    variance = divide(square_sum(spread).float(), length)
    exponent = spread.exponent + rows.exponent - rows.bits
    scale = inverse_deviation(variance, rows, exponent, eps)
    unit = power(rows.exponent - rows.bits).unsqueeze(-1)
    value = (read(centred.double() * unit) * scale) * read(w.tensor) + read(b.tensor)
    return write(value, x.dtype)
