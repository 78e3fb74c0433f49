"""LayerNorm with weight and bias, for the indexer's key."""

from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import ACT, F32, Array, Kind, op
from glm5_hal.handles import Weight


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
