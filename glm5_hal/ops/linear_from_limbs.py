"""The end of a row-parallel linear: the ranks' integers, added, become values."""

from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import FLOAT, I32, Array, Kind, op
from glm5_hal.exact import ACTIVATION_DIGITS, digits_of, rounded, scaled
from glm5_hal.handles import Weight
from glm5_hal.levels import Numerics
from glm5_hal.ops.linear_limbs import LIMB_BITS
from glm5_hal.ops.row_exponents import NOT_FINITE


@op(
    Kind.OPTIONAL,
    profile=Numerics.EXACT,
    requirements={
        "LINEAR-FROM-LIMBS-1": "With the maximum of the ranks' exponents and the sum of their "
        "limbs, the result is that of linear on the whole row and weight, to the byte.",
    },
)
def linear_from_limbs(
    limbs: Annotated[Tensor, Array("T N limbs", I32)],
    exponents: Annotated[Tensor, Array("T", I32)],
    w: Annotated[Weight, Array("N K", FLOAT)],
    out_dtype: torch.dtype,
) -> Annotated[Tensor, Array("T N", FLOAT)]:
    """Values [T, N] of summed limbs [T, N, 3]; `w` is any rank's shard of the weight."""
    low, middle, high = limbs.long().unbind(-1)
    sums = (((high << LIMB_BITS) + middle) << LIMB_BITS) + low
    shard = w.shard
    finite = (exponents != NOT_FINITE).unsqueeze(-1) & shard.finite
    exponent = exponents.long().unsqueeze(-1) + shard.exponents
    value = scaled(sums, exponent, finite, ACTIVATION_DIGITS, digits_of(w.dtype))
    return rounded(value, out_dtype)
