"""The exponents of rows that are spread over ranks: first step of a row-parallel linear."""

from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import ACT, I32, Array, Kind, op
from glm5_hal.exact import ACTIVATION_DIGITS, fixed
from glm5_hal.levels import Numerics

NOT_FINITE = 255
"""Stands for the exponent of a row that holds NaN or Inf: above that of any other."""


@op(
    Kind.OPTIONAL,
    profile=Numerics.EXACT,
    requirements={
        "ROW-EXPONENTS-1": "e[t] is the exponent that EXACT-FIXED-1 gives row t; 255 where the row "
        "holds NaN or Inf; -126 for a row of zeros or of no elements.",
    },
)
def row_exponents(
    x: Annotated[Tensor, Array("T K", ACT)],
) -> Annotated[Tensor, Array("T", I32)]:
    """Exponents [T] of this rank's part of each row; their maximum over ranks is the row's."""
    rows = fixed(x, ACTIVATION_DIGITS)
    return torch.where(rows.finite, rows.exponent, NOT_FINITE).int()
