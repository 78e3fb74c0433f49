"""Reading rows of a paged cache back."""

from typing import Annotated

from torch import Tensor

from glm5_hal.contract import ACT, I32, Array, Kind, op
from glm5_hal.handles import Cache


@op(
    Kind.PRIMITIVE,
    requirements={
        "CACHE-READ-1": "Row n of the result is the row in slot slots[n], byte for byte.",
    },
)
def cache_read(
    cache: Annotated[Cache, Array("slots W", ACT)], slots: Annotated[Tensor, Array("N", I32)]
) -> Annotated[Tensor, Array("N W", ACT)]:
    """The rows in `slots` [N]: [N, W]."""
    return cache.tensor[slots.long()]
