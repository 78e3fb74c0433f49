"""Values of some programs: arrays whose first axis is the program.

An axis of length 1 stands for equal values: of all programs, or along an axis of the tile. So what
is computed from arguments alone is computed once, and a tile that is a sum of a column and a row is
made only where it is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glm5_hal.conformance.simulated.ttir.graph import Value
from glm5_hal.conformance.simulated.ttir.memory import Memory
from glm5_hal.conformance.simulated.ttir.types import Array

Rows = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Launch:
    """Programs that begin together.

    Attributes:
        grid: programs of the launch along x, y and z.
        programs: numbers of these along x, y and z: [P] or [1] int32 each.
    """

    grid: tuple[int, int, int]
    programs: tuple[Array, Array, Array]


class Frame:
    """Programs that do the same.

    Args:
        memory: that they read and write.
        grid: programs of the launch along x, y and z.
        programs: their numbers along x, y and z: [P] or [1] int32 each.
        parent: programs of which these are a part.
        rows: which of the parent's they are; [P].

    Attributes:
        values: what is computed so far; an array [P or 1, ...] each.
    """

    __slots__ = ("count", "grid", "memory", "parent", "programs", "rows", "values")

    def __init__(
        self,
        memory: Memory,
        grid: tuple[int, int, int],
        programs: tuple[Array, Array, Array],
        parent: "Frame | None" = None,
        rows: Rows | None = None,
    ) -> None:
        self.memory = memory
        self.grid = grid
        self.programs = programs
        self.parent = parent
        self.rows = rows
        self.count = max(map(len, programs)) if rows is None else len(rows)
        self.values: dict[Value, Array] = {}

    def part(self, rows: Rows) -> "Frame":
        """Some of these programs, by their places here."""
        x, y, z = (some(place, rows) for place in self.programs)
        return Frame(self.memory, self.grid, (x, y, z), self, rows)

    def get(self, value: Value) -> Array:
        """A value; of the parent, where it was computed there."""
        found = self.values.get(value)
        if found is None:
            if self.parent is None or self.rows is None:
                raise KeyError(f"a value of type {value.type} that is not computed")
            found = some(self.parent.get(value), self.rows)
            self.values[value] = found
        return found


def some(x: Array, rows: Rows) -> Array:
    """Values of some programs."""
    return x if x.shape[0] == 1 else x.take(rows, 0)


class Parts:
    """Results of programs that ended at different times, to be put together.

    Args:
        count: of programs.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.found: list[tuple[Rows, Sequence[Array]]] = []

    def add(self, rows: Rows, results: Sequence[Array]) -> None:
        """The results of the programs at these places."""
        self.found.append((rows, results))

    def together(self) -> list[Array]:
        """The results of all programs."""
        return [self._joined(place) for place in range(len(self.found[0][1]))]

    def _joined(self, place: int) -> Array:
        parts = [(rows, results[place]) for rows, results in self.found]
        shape = np.broadcast_shapes(*(part.shape[1:] for _, part in parts))
        made = np.empty((self.count, *shape), parts[0][1].dtype)
        for rows, part in parts:
            made[rows] = part
        return made
