"""RMSNorm with the residual addition that precedes it in every block."""

from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import ACT, F32, Array, Kind, op
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
