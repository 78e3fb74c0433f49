"""Writing rows to a paged cache and reading them back."""

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
