"""Reading rows of a paged cache back."""

from torch import Tensor

from glm5_hal.kernels.triton import rows
from glm5_hal.kernels.triton.target import Target


def run(cache: Tensor, slots: Tensor, target: Target) -> Tensor:
    """Rows in slots [N] of a cache [slots, W]; the same in every profile."""
    return rows.gather(cache, slots, target)
