"""Loads and stores of tiles, by rows.

Mostly a tile's pointers are a column of pointers plus a row of distances, and its mask likewise is
a column and a row. Then what is outside of the mask is never touched, and rows whose elements lie
side by side are copied as a whole.
"""

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from glm5_hal.conformance.simulated.ttir.access import lacking, load_elements, store_elements
from glm5_hal.conformance.simulated.ttir.frames import Frame
from glm5_hal.conformance.simulated.ttir.graph import Operation, Value
from glm5_hal.conformance.simulated.ttir.memory import Memory, Span
from glm5_hal.conformance.simulated.ttir.registry import Binder, Step, step
from glm5_hal.conformance.simulated.ttir.types import Array, Type


@dataclass(frozen=True, slots=True)
class Lines:
    """The part of a tile that is inside of its mask, in rows.

    Attributes:
        rows: pointers to the first element of each row: [P or 1, ...].
        known: which rows are inside, of their shape; None for all.
        begin: the first column inside.
        distances: of the columns inside to the first of them: [columns] int64.
        dense: whether the columns lie side by side.
        inside: `rows` of those inside: [rows], or `rows` itself.
        span: the least and the greatest of `inside`, where they are known.
    """

    rows: Array
    known: Array | None
    begin: int
    distances: Array
    dense: bool
    inside: Array
    span: Span | None = None

    @property
    def columns(self) -> slice:
        """Those inside."""
        return slice(self.begin, self.begin + len(self.distances))

    def moved(self, terms: Sequence[Array]) -> "Lines":
        """With terms [P or 1, ..., 1] added to the pointers."""
        start = functools.reduce(operator.add, terms)[..., 0]
        if start.size == 1:
            by = int(start.flat[0])
            span = None if self.span is None else (self.span[0] + by, self.span[1] + by)
            rows, inside = self.rows + by, self.inside
            inside = rows if self.known is None else inside + by
            return Lines(rows, self.known, self.begin, self.distances, self.dense, inside, span)
        rows, known = self.rows + start, self.known
        if known is not None:
            known = np.broadcast_to(known, rows.shape)
        return Lines(
            rows, known, self.begin, self.distances, self.dense, _inside(rows, known), None
        )

    def read(self, memory: Memory, dtype: "np.dtype[np.generic]") -> Array:
        """Elements of the rows inside: [..., columns]."""
        if self.dense:
            return memory.lines(self.inside, len(self.distances), dtype, self.span)
        return memory.gather(self.inside[..., None] + self.distances, dtype, self._element_span())

    def write(self, memory: Memory, values: Array) -> None:
        """Store the columns inside of values [P or 1, ..., columns]."""
        shape, rows, span = self.rows.shape, self.inside, self.span
        if values.shape[:-1] != shape:
            shape = np.broadcast_shapes(shape, values.shape[:-1])
            values = np.broadcast_to(values, (*shape, values.shape[-1]))
        if shape != self.rows.shape:
            rows, span = np.broadcast_to(self.rows, shape), None
            rows = rows if self.known is None else rows[np.broadcast_to(self.known, shape)]
        if self.known is not None:
            values = values[np.broadcast_to(self.known, shape)]
        if self.dense:
            memory.set_lines(rows, values, span)
        else:
            span = self._element_span() if span is not None else None
            memory.scatter(rows[..., None] + self.distances, values, span)

    def _element_span(self) -> Span | None:
        """The least and the greatest element, where they are known."""
        if self.span is None or not len(self.distances):
            return None
        return (
            self.span[0] + int(self.distances.min()),
            self.span[1] + int(self.distances.max()),
        )


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
    return Lines(start, wanted, begin, line - first, dense, _inside(start, wanted))


def _inside(rows: Array, known: Array | None) -> Array:
    return rows if known is None else rows[known]


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
        if found is None or not found.inside.size:
            return found
        return replace(found, span=(int(found.inside.min()), int(found.inside.max())))

    def lines(self, frame: Frame) -> Lines | None:
        """By rows; None where it is not made of a column and a row."""
        if self._still is not None:
            terms = [frame.get(value) for value in self._moving]
            if all(term.shape[-1] == 1 for term in terms):
                return self._still.moved(terms)
        pointers = [frame.get(value) for value in self._pointers]
        return lines(pointers, [frame.get(value) for value in self._masks], self._shape[-1])

    def elements(self, frame: Frame) -> tuple[Array, Array | None]:
        """Pointers to all elements, and which are inside; None for all."""
        pointers = [frame.get(value) for value in self._pointers]
        masks = [frame.get(value) for value in self._masks]
        known = functools.reduce(operator.and_, masks) if masks else None
        return functools.reduce(operator.add, pointers), known


@step("tile.load")
def _load(op: Operation, binder: Binder) -> Step:
    tile = _Tile(op, binder, op.type)
    (result,), dtype, width = op.results, op.type.storage, op.type.shape[-1]

    def load(frame: Frame) -> None:
        other = frame.get(tile.rest[0]) if tile.rest else None
        found = tile.lines(frame)
        if found is None:
            at, known = tile.elements(frame)
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
    pointers, masks = int(op.attributes["pointers"]), int(op.attributes["masks"])
    tile = _Tile(op, binder, op.operands[pointers + masks].type)
    width = tile.rest[0].type.shape[-1]

    def store(frame: Frame) -> None:
        stored = frame.get(tile.rest[0])
        found = tile.lines(frame)
        if found is None:
            at, known = tile.elements(frame)
            store_elements(frame.memory, at, known, stored)
            return
        if stored.shape[-1] != width:
            stored = np.broadcast_to(stored, (*stored.shape[:-1], width))
        found.write(frame.memory, stored[..., found.columns])

    return store
