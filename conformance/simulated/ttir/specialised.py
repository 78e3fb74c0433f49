"""Kernels made for launches that come again.

A model launches a kernel many times with the same numbers, and other tensors. Then everything that
depends on the numbers and the programs alone is computed once: indices, masks, distances between
elements, bounds of loops. What is left are loads, what is computed of them, and stores.
"""

from collections.abc import Sequence

import numpy as np

from glm5_hal.conformance.simulated.ttir.frames import Launch
from glm5_hal.conformance.simulated.ttir.graph import Block, Value
from glm5_hal.conformance.simulated.ttir.registry import Binder, Routine
from glm5_hal.conformance.simulated.ttir.types import Array

KEPT = 128
"""Most kinds of launches that are known of a kernel."""

Key = tuple[tuple[int, int, int], tuple[bytes, ...]]


class Specialised:
    """What a kernel becomes for the launches that have been seen.

    Args:
        binder: that made the kernel for any launch.
        body: of the kernel.
    """

    def __init__(self, binder: Binder, body: Block) -> None:
        self._binder = binder
        self._body = body
        self._made: dict[Key, tuple[Launch, Routine] | None] = {}

    def find(
        self, grid: tuple[int, int, int], given: Sequence[Array]
    ) -> tuple[Launch, Routine] | None:
        """The programs of a launch and what they do; None where it is seen for the first time.

        Args:
            grid: programs along x, y and z.
            given: the arguments, [1] each.
        """
        numbers = [
            (value, array)
            for value, array in zip(self._body.arguments, given, strict=True)
            if value.type.pointee is None
        ]
        key = grid, tuple(array.tobytes() for _, array in numbers)
        found = self._made.get(key)
        if found is None:
            found = self._launch(grid, dict(numbers)) if key in self._made else None
            if len(self._made) >= KEPT:
                self._made.pop(next(iter(self._made)), None)
            self._made[key] = found
        return found

    def _launch(
        self, grid: tuple[int, int, int], numbers: dict[Value, Array]
    ) -> tuple[Launch, Routine]:
        own = self._binder
        launch = Launch(grid, programs(grid, np.arange(grid[0] * grid[1] * grid[2])))
        binder = Binder(own.module, own.chip, own.kernel, {**own.known, **numbers}, launch)
        return launch, binder.block(self._body)


def programs(grid: tuple[int, int, int], numbers: Array) -> tuple[Array, Array, Array]:
    """Places of programs along x, y and z: [P]; [1] where the grid has one place only."""
    places = [axis.astype(np.int32) for axis in np.unravel_index(numbers, grid)]
    x, y, z = (axis[:1] if size == 1 else axis for axis, size in zip(places, grid, strict=True))
    return x, y, z
