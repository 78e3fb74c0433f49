"""Writing rows to a paged cache."""

from torch import Tensor

from glm5_hal.kernels.triton.rows import scatter
from glm5_hal.kernels.triton.target import Target


def run(cache: Tensor, rows: Tensor, slots: Tensor, target: Target) -> None:
    """Store rows [T, W] in slots [T] of a cache [slots, W]; the same in every profile."""
    scatter(rows if rows.stride(-1) == 1 else rows.contiguous(), cache, slots, target)
