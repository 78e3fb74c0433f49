"""Running a kernel: all programs of a grid, a block of them at a time."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from glm5_hal.conformance.simulated.ttir import (
    access,
    control,
    conversions,
    floats,
    integers,
    products,
    reductions,
    shapes,
    tiles,
    updates,
)
from glm5_hal.conformance.simulated.ttir.chip import Chip
from glm5_hal.conformance.simulated.ttir.frames import Frame, Launch
from glm5_hal.conformance.simulated.ttir.front import Bound, ttir
from glm5_hal.conformance.simulated.ttir.graph import largest
from glm5_hal.conformance.simulated.ttir.memory import Memory
from glm5_hal.conformance.simulated.ttir.parsing import parse
from glm5_hal.conformance.simulated.ttir.passes import prepare
from glm5_hal.conformance.simulated.ttir.registry import Binder, Routine
from glm5_hal.conformance.simulated.ttir.specialised import Specialised, programs
from glm5_hal.conformance.simulated.ttir.types import Array

FAMILIES = (
    *(access, control, conversions, floats, integers, products, reductions, shapes, tiles, updates),
)
"""Modules that register operations when they are imported."""

ELEMENTS = 1 << 17
"""Most elements of the largest tile times the programs of a block, unless one program has more."""

SMALL = 1 << 16
"""Most such elements of a launch that is specialised: beyond, arithmetic costs more than order."""


class Executable:
    """A kernel that a chip has taken.

    Args:
        bound: the kernel and its types.
        chip: that runs it.

    Raises:
        TtirError: the compiler or the chip refuses the kernel, or an operation is not known.
    """

    def __init__(self, bound: Bound, chip: Chip) -> None:
        self.name = str(bound.kernel.__name__)
        module = parse(ttir(bound, chip.habits), self.name)
        prepare(module, chip.fused)
        body = module.entry.body
        self._arguments = [value.type for value in body.arguments]
        binder = Binder(module, chip, self.name)
        with np.errstate(all="ignore"):
            self._routine: Routine = binder.block(body)
        self._specialised = Specialised(binder, body)
        self._largest = largest(body)
        self._block = max(1, ELEMENTS // self._largest)

    def run(
        self, grid: Sequence[int], arguments: Sequence[Any], order: Array | None = None
    ) -> None:
        """Run all programs of a grid.

        Args:
            grid: programs along x, y and z; one to three numbers.
            arguments: that are no compile-time values, in order; tensors as this thread reaches
                them.
            order: numbers of the programs [P] in the order in which they run.

        Raises:
            KernelError: a program does what none may do.
        """
        memory = Memory([value for value in arguments if isinstance(value, Tensor)])
        given = [
            # [1]: a pointer or a number
            np.asarray([memory.pointer(value)], np.int64)
            if isinstance(value, Tensor)
            else shapes.scalar(value, kind)
            for value, kind in zip(arguments, self._arguments, strict=True)
        ]
        x, y, z = (*grid, 1, 1)[:3]
        with np.errstate(all="ignore"):
            for launch, routine in self._blocks((x, y, z), given, order):
                routine.run(Frame(memory, launch.grid, launch.programs), given)

    def _blocks(
        self, grid: tuple[int, int, int], given: Sequence[Array], order: Array | None
    ) -> Iterator[tuple[Launch, Routine]]:
        """The programs of each block, and what they do."""
        count = grid[0] * grid[1] * grid[2]
        if order is None and count * self._largest <= SMALL:
            found = self._specialised.find(grid, given)
            if found is not None:
                yield found
                return
        every = np.arange(count) if order is None else order
        for begin in range(0, count, self._block):
            some = every[begin : begin + self._block]
            yield Launch(grid, programs(grid, some)), self._routine


@functools.lru_cache(maxsize=4096)
def executable(bound: Bound, chip: Chip) -> Executable:
    """A kernel made runnable, once."""
    return Executable(bound, chip)
