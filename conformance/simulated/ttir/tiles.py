"""Loads and stores of tiles, by rows.

Mostly a tile's pointers are a column of pointers plus a row of distances, and its mask likewise is
a column and a row. Then what is outside of the mask is never touched, and rows whose elements lie
side by side are copied as a whole.
"""

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glm5_hal.conformance.simulated.ttir.access import lacking, load_elements, store_elements
from glm5_hal.conformance.simulated.ttir.frames import Frame
from glm5_hal.conformance.simulated.ttir.graph import Operation, Value
from glm5_hal.conformance.simulated.ttir.memory import Memory
from glm5_hal.conformance.simulated.ttir.registry import Binder, Step, step
from glm5_hal.conformance.simulated.ttir.types import Array


@dataclass(frozen=True)
class Lines:
    """The part of a tile that is inside of its mask, in rows.

    Attributes:
        rows: pointers to the first element of each row: [P or 1, ...].
        known: which rows are inside, of their shape; None for all.
        begin: the first column inside.
        distances: of the columns inside to the first of them: [columns] int64.
        dense: whether the columns lie side by side.
    """

    rows: Array
    known: Array | None
    begin: int
    distances: Array
    dense: bool

    @property
    def columns(self) -> slice:
        """Those inside."""
        return slice(self.begin, self.begin + len(self.distances))

    def read(self, memory: Memory, dtype: "np.dtype[np.generic]") -> Array:
        """Elements of the rows inside: [..., columns]."""
        rows = self.rows if self.known is None else self.rows[self.known]
        if self.dense:
            return memory.lines(rows, len(self.distances), dtype)
        return memory.gather(rows[..., None] + self.distances, dtype)

    def write(self, memory: Memory, values: Array) -> None:
        """Store the columns inside of values [P or 1, ..., columns]."""
        if self.known is None:
            shape = np.broadcast_shapes(self.rows.shape, values.shape[:-1])
            rows = np.broadcast_to(self.rows, shape)
            values = np.broadcast_to(values, (*shape, values.shape[-1]))
        else:
            shape = np.broadcast_shapes(self.rows.shape, values.shape[:-1])
            known = np.broadcast_to(self.known, shape)
            rows = np.broadcast_to(self.rows, shape)[known]
            values = np.broadcast_to(values, (*shape, values.shape[-1]))[known]
        if self.dense:
            memory.set_lines(rows, values)
        else:
            memory.scatter(rows[..., None] + self.distances, values)


def lines(pointers: Sequence[Array], masks: Sequence[Array], width: int) -> Lines | None:
    """A tile by its rows; None where it is not made of a column and a row.

    Args:
        pointers: terms of the pointers.
        masks: that all must be true.
        width: columns of the tile.
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
    wanted = None
    if known:
        wanted = functools.reduce(operator.and_, known)[..., 0]
        wanted = None if wanted.all() else wanted
    if wanted is not None:
        shape = np.broadcast_shapes(start.shape, wanted.shape)
        start, wanted = np.broadcast_to(start, shape), np.broadcast_to(wanted, shape)
    dense = len(line) > 1 and bool((line[1:] - line[:-1] == 1).all())
    return Lines(start, wanted, begin, line - first, dense)


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


class _Operands:
    """Terms of the pointers, masks, and what else there is."""

    def __init__(self, op: Operation) -> None:
        pointers, masks = int(op.attributes["pointers"]), int(op.attributes["masks"])
        self.pointers: tuple[Value, ...] = op.operands[:pointers]
        self.masks: tuple[Value, ...] = op.operands[pointers : pointers + masks]
        self.rest: tuple[Value, ...] = op.operands[pointers + masks :]


@step("tile.load")
def _load(op: Operation, binder: Binder) -> Step:
    operands = _Operands(op)
    (result,), dtype, width = op.results, op.type.storage, op.type.shape[-1]

    def load(frame: Frame) -> None:
        pointers = [frame.get(value) for value in operands.pointers]
        masks = [frame.get(value) for value in operands.masks]
        other = frame.get(operands.rest[0]) if operands.rest else None
        found = lines(pointers, masks, width)
        if found is None:
            at = functools.reduce(operator.add, pointers)
            known = functools.reduce(operator.and_, masks) if masks else None
            frame.values[result] = load_elements(frame.memory, at, known, other, dtype)
            return
        inside = found.read(frame.memory, dtype)
        if found.known is None and inside.shape[-1] == width:
            frame.values[result] = inside
            return
        made = np.empty((*found.rows.shape, width), dtype)
        made[...] = lacking(dtype) if other is None else other
        if found.known is None:
            made[..., found.columns] = inside
        else:
            made[found.known, found.columns] = inside
        frame.values[result] = made

    return load


@step("tile.store")
def _store(op: Operation, binder: Binder) -> Step:
    operands = _Operands(op)
    width = operands.rest[0].type.shape[-1]

    def store(frame: Frame) -> None:
        pointers = [frame.get(value) for value in operands.pointers]
        masks = [frame.get(value) for value in operands.masks]
        stored = frame.get(operands.rest[0])
        found = lines(pointers, masks, width)
        if found is None:
            at = functools.reduce(operator.add, pointers)
            known = functools.reduce(operator.and_, masks) if masks else None
            store_elements(frame.memory, at, known, stored)
            return
        if stored.shape[-1] != width:
            stored = np.broadcast_to(stored, (*stored.shape[:-1], width))
        found.write(frame.memory, stored[..., found.columns])

    return store
