"""One rank's share of a row-parallel linear, as integers that may be added in any order."""

from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import ACT, FLOAT, I32, Array, Kind, op
from glm5_hal.exact import ACTIVATION_DIGITS, digits_of, exact_sums, fixed
from glm5_hal.handles import Weight
from glm5_hal.levels import Numerics
from glm5_hal.ops.row_exponents import NOT_FINITE

LIMBS = 3
LIMB_BITS = 24
"""Low limbs stay below 2^24, so that up to 127 ranks add up in int32."""


@op(
    Kind.OPTIONAL,
    profile=Numerics.EXACT,
    requirements={
        "LINEAR-LIMBS-1": "The exact sum S of EXACT-SUM-1 over this rank's columns, rows of x "
        "fixed with the given exponents and those of w with its whole rows' exponents: "
        "S = l0 + l1 * 2^24 + l2 * 2^48 with l0 and l1 in [0, 2^24). No columns give zeros, and "
        "so do rows of x with the exponent 255 and rows of w that hold NaN or Inf anywhere.",
    },
)
def linear_limbs(
    x: Annotated[Tensor, Array("T K", ACT)],
    w: Annotated[Weight, Array("N K", FLOAT)],
    exponents: Annotated[Tensor, Array("T", I32)],
) -> Annotated[Tensor, Array("T N limbs", I32)]:
    """Limbs [T, N, 3]; `w` comes from `Backend.prepare_shard`, `exponents` from all ranks."""
    shard = w.shard
    rows = fixed(x, ACTIVATION_DIGITS, exponents)
    sums = exact_sums(rows, fixed(shard.columns, digits_of(w.dtype), shard.exponents))
    sums = torch.where(shard.finite & (exponents != NOT_FINITE).unsqueeze(-1), sums, 0)
    mask = (1 << LIMB_BITS) - 1
    limbs = (sums & mask, (sums >> LIMB_BITS) & mask, sums >> (2 * LIMB_BITS))
    return torch.stack(limbs, dim=-1).int()
