"""Embedding lookup."""

from torch import Tensor

from glm5_hal.kernels.triton import rows
from glm5_hal.kernels.triton.target import Target


def run(ids: Tensor, table: Tensor, target: Target) -> Tensor:
    """Rows ids [T] of table [V, D]; the same in every profile."""
    return rows.gather(table, ids, target)
