"""Loads and stores of tiles, by rows.

Mostly a tile's pointers are a column of pointers plus a row of distances, and its mask likewise is
a column and a row. Then what is outside of the mask is never touched, and rows whose elements lie
side by side are copied as a whole. Where they lie so along the columns, the tile is taken turned.
"""

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glm5_hal.conformance.simulated import build
from glm5_hal.conformance.simulated.ttir.access import lacking, load_elements, store_elements
from glm5_hal.conformance.simulated.ttir.frames import Frame
from glm5_hal.conformance.simulated.ttir.graph import Operation, Value
from glm5_hal.conformance.simulated.ttir.memory import Memory
from glm5_hal.conformance.simulated.ttir.registry import Binder, Step, step
from glm5_hal.conformance.simulated.ttir.types import Array, Type

ALL = np.ones(1, np.bool_)


@dataclass(frozen=True, slots=True)
class Lines:
    """The part of a tile that is inside of its mask, in rows.

    Attributes:
        rows: pointers to the first element of each row: [P or 1, ...] int64.
        known: which rows are inside, of a shape that fits; `ALL` for all.
        begin: the first column inside.
        distances: of the columns inside to the first of them: [columns] int64.
        dense: whether the columns lie side by side.
        turned: whether these rows are the tile's columns.
        by: what is to be added to the pointers.
    """

    rows: Array
    known: Array
    begin: int
    distances: Array
    dense: bool
    turned: bool = False
    by: int = 0

    def moved(self, terms: Sequence[Array]) -> "Lines":
        """With terms [P or 1, ..., 1] added to the pointers."""
        start = functools.reduce(operator.add, terms)[..., 0]
        rows, by = self.rows, self.by
        if start.size == 1:
            by += start.item()
        else:
            rows = rows + start
        return Lines(rows, self.known, self.begin, self.distances, self.dense, self.turned, by)

    def read(self, memory: Memory, width: int, other: Array) -> Array:
        """The tile: [..., width], with `other`, one element, outside of its mask."""
        place = self.rows, self.known, self.by, self.begin, self.distances, self.dense
        made = build.load().read_lines(memory.base, memory.size, *place, width, other)
        if made is None:
            raise memory.left(self._pointers(), other.dtype, "reads")
        return np.asarray(made)

    def write(self, memory: Memory, values: Array) -> None:
        """Store what is inside of values [P or 1, ..., width]."""
        place = self.rows, self.known, self.by, self.begin, self.distances, self.dense
        if not build.load().write_lines(memory.base, memory.size, *place, values):
            raise memory.left(self._pointers(), values.dtype, "writes")

    def _pointers(self) -> Array:
        """To every element inside: [elements]."""
        shape = np.broadcast_shapes(self.rows.shape, self.known.shape)
        rows = np.broadcast_to(self.rows, shape)[np.broadcast_to(self.known, shape)]
        return np.asarray((rows[:, None] + (self.distances + self.by)).reshape(-1))


def lines(
    pointers: Sequence[Array], masks: Sequence[Array], width: int, turned: bool = False
) -> Lines | None:
    """A tile by its rows; None where it is not made of a column and a row.

    Args:
        pointers: terms of the pointers.
        masks: that all must be true.
        width: columns of the tile.
        turned: whether it has been turned.
    """
    if not (all(map(_is_line, pointers)) and all(map(_is_line, masks))):
        return None
    columns, rows = _sorted(pointers)
    inside, known = _sorted(masks)
    columns = [part for column in columns for part in _apart(column)]
    columns, more = _sorted(columns)
    rows = [*rows, *more]
    inside = [_same(mask) for mask in inside]
    if not rows or not columns or not all(map(_is_row, (*columns, *inside))):
        return None
    line = functools.reduce(operator.add, columns).reshape(-1).astype(np.int64, copy=False)
    begin, end = 0, width
    if inside:
        places = np.flatnonzero(functools.reduce(operator.and_, inside))
        begin = int(places[0]) if len(places) else 0
        end = begin + len(places)
        if len(places) and places[-1] != end - 1:
            return None
    line = line[begin:end]
    first = line[0] if len(line) else 0
    start = functools.reduce(operator.add, rows)[..., 0] + first
    wanted = functools.reduce(operator.and_, known)[..., 0] if known else ALL
    dense = len(line) > 1 and bool((line[1:] - line[:-1] == 1).all())
    return Lines(start, wanted, begin, line - first, dense, turned)


def _turned(tiles: Sequence[Array]) -> list[Array]:
    return [tile.swapaxes(-1, -2) for tile in tiles]


def _runs_down(terms: Sequence[Array]) -> bool:
    """Whether elements lie side by side along the columns, and not along the rows."""
    return _is_dense(_turned(terms)) and not _is_dense(terms)


def _is_dense(terms: Sequence[Array]) -> bool:
    """Whether the elements of the first program's first row lie side by side."""
    line = functools.reduce(operator.add, [term[(0,) * (term.ndim - 1)] for term in terms])
    return len(line) > 1 and bool((line[1:] - line[:-1] == 1).all())


def _is_line(x: Array) -> bool:
    """Whether it is the same along the columns, or a row of each program."""
    return bool(x.shape[-1] == 1 or x.size == x.shape[0] * x.shape[-1])


def _is_row(x: Array) -> bool:
    """Whether it is one row for all programs."""
    return bool(x.size == x.shape[-1])


def _apart(row: Array) -> tuple[Array, ...]:
    """Rows of all programs as what each begins with and one row, where that is so."""
    if len(row) == 1:
        return (row,)
    start = row[..., :1].astype(np.int64)
    rest = row - start
    return (start, rest[:1]) if (rest == rest[0]).all() else (row,)


def _same(row: Array) -> Array:
    """One row, where those of all programs are the same."""
    return row[:1] if len(row) > 1 and (row == row[0]).all() else row


def _sorted(terms: Sequence[Array]) -> tuple[list[Array], list[Array]]:
    """Rows, and what is the same along them."""
    across = [term for term in terms if term.shape[-1] > 1]
    return across, [term for term in terms if term.shape[-1] == 1]


class _Tile:
    """Where an operation reads or writes.

    Attributes:
        rest: operands that are neither terms of the pointers nor masks.
    """

    def __init__(self, op: Operation, binder: Binder, kind: Type) -> None:
        pointers, masks = int(op.attributes["pointers"]), int(op.attributes["masks"])
        self._pointers: tuple[Value, ...] = op.operands[:pointers]
        self._masks: tuple[Value, ...] = op.operands[pointers : pointers + masks]
        self.rest: tuple[Value, ...] = op.operands[pointers + masks :]
        self._shape = kind.shape
        self._turns: bool | None = None if len(kind.shape) > 1 else False  # seen when first run
        self._moving = tuple(value for value in self._pointers if not binder.fixed((value,)))
        self._still = self._known(binder)

    def _known(self, binder: Binder) -> Lines | None:
        """The tile but for the terms that are not known, where its masks and columns are."""
        masks = binder.fixed(self._masks)
        if binder.launch is None or masks is None or not self._moving:
            return None
        here = [value for value in self._pointers if value not in self._moving]
        terms = binder.fixed(here)
        assert terms is not None  # each of them is known
        zero = np.zeros((1,) * (1 + len(self._shape)), np.int64)
        found = lines([zero, *terms], masks, self._shape[-1])
        if self._turns is None and (found is None or not found.dense):
            tile = _turned([zero, *terms]), _turned(masks), self._shape[-2]
            turned = lines(*tile, turned=True)
            found = turned if turned is not None and turned.dense else found
        return found

    def lines(self, frame: Frame) -> Lines | None:
        """By rows; None where it is not made of a column and a row."""
        if self._still is not None:
            terms = [frame.get(value) for value in self._moving]
            if self._still.turned:
                terms = _turned(terms)
            if all(term.shape[-1] == 1 for term in terms):
                return self._still.moved(terms)
        pointers = [frame.get(value) for value in self._pointers]
        masks = [frame.get(value) for value in self._masks]
        if self._turns is None:
            self._turns = _runs_down(pointers)
        if self._turns:
            return lines(_turned(pointers), _turned(masks), self._shape[-2], turned=True)
        return lines(pointers, masks, self._shape[-1])

    def width(self, found: Lines) -> int:
        """Elements of its rows."""
        return self._shape[-2 if found.turned else -1]

    def elements(self, frame: Frame) -> tuple[Array, Array | None]:
        """Pointers to all elements, and which are inside; None for all."""
        pointers = [frame.get(value) for value in self._pointers]
        masks = [frame.get(value) for value in self._masks]
        known = functools.reduce(operator.and_, masks) if masks else None
        return functools.reduce(operator.add, pointers), known


@step("tile.load")
def _load(op: Operation, binder: Binder) -> Step:
    tile = _Tile(op, binder, op.type)
    (result,), dtype = op.results, op.type.storage
    unknown = lacking(dtype)

    def load(frame: Frame) -> None:
        other = frame.get(tile.rest[0]) if tile.rest else unknown
        found = tile.lines(frame) if other.size == 1 else None
        if found is None:
            at, known = tile.elements(frame)
            frame.values[result] = load_elements(frame.memory, at, known, other, dtype)
            return
        made = found.read(frame.memory, tile.width(found), other)
        frame.values[result] = made.swapaxes(-1, -2) if found.turned else made

    return load


@step("tile.store")
def _store(op: Operation, binder: Binder) -> Step:
    pointers, masks = int(op.attributes["pointers"]), int(op.attributes["masks"])
    tile = _Tile(op, binder, op.operands[pointers + masks].type)

    def store(frame: Frame) -> None:
        stored = frame.get(tile.rest[0])
        found = tile.lines(frame)
        if found is None:
            at, known = tile.elements(frame)
            store_elements(frame.memory, at, known, stored)
            return
        if found.turned:
            stored = stored.swapaxes(-1, -2)
        found.write(frame.memory, stored)

    return store
