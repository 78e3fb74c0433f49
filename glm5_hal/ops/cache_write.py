"""Writing rows to a paged cache."""

from typing import Annotated

from torch import Tensor

from glm5_hal.contract import ACT, I32, Array, Kind, op
from glm5_hal.handles import Cache


@op(
    Kind.PRIMITIVE,
    requirements={
        "CACHE-WRITE-1": "Slot slots[t] holds row t afterwards, byte for byte.",
        "CACHE-WRITE-2": "No other slot changes.",
    },
)
def cache_write(
    cache: Annotated[Cache, Array("slots W", ACT)],
    rows: Annotated[Tensor, Array("T W", ACT)],
    slots: Annotated[Tensor, Array("T", I32)],
) -> None:
    """Store rows [T, W] at distinct `slots` [T]; W and dtype are the cache's."""
    cache.tensor[slots.long()] = rows
