"""Loops, branches and calls: programs that go different ways become frames of their own."""

from collections.abc import Sequence

import numpy as np

from glm5_hal.conformance.simulated.ttir.errors import KernelError, TtirError
from glm5_hal.conformance.simulated.ttir.frames import Frame, Parts, some
from glm5_hal.conformance.simulated.ttir.graph import Operation
from glm5_hal.conformance.simulated.ttir.registry import Binder, Routine, Step, step
from glm5_hal.conformance.simulated.ttir.turns import known_indices, unrolled
from glm5_hal.conformance.simulated.ttir.types import Array


@step("scf.for")
def _for(op: Operation, binder: Binder) -> Step | None:
    if op.words:
        raise TtirError("a loop over numbers without a sign is not executed here")
    indices = known_indices(op, binder)
    if indices is not None:
        return unrolled(op, binder, indices)
    routine = binder.for_parts().block(op.regions[0])
    bounds, initial = op.operands[:3], op.operands[3:]

    def loop(frame: Frame) -> None:
        begin, end, by = (frame.get(bound) for bound in bounds)
        carried = [frame.get(value) for value in initial]
        if (by <= 0).any():
            raise KernelError("a loop whose step is not above zero")
        turns = np.maximum(-((begin.astype(np.int64) - end) // by), 0)
        if (turns == turns[0]).all():
            made = _turned(frame, routine, carried, begin, by, 0, int(turns[0]))
        else:
            made = _apart(frame, routine, carried, begin, by, turns)
        frame.values.update(zip(op.results, made, strict=True))

    return loop


def _turned(
    frame: Frame,
    routine: Routine,
    carried: list[Array],
    begin: Array,
    by: Array,
    first: int,
    last: int,
) -> list[Array]:
    """Turns of a loop that all programs of the frame do."""
    for turn in range(first, last):
        index = begin + by * by.dtype.type(turn)
        carried = routine.run(frame, (index, *carried))
    return carried


def _apart(
    frame: Frame, routine: Routine, carried: list[Array], begin: Array, by: Array, turns: Array
) -> list[Array]:
    """A loop that ends sooner for some programs than for others."""
    turns = np.broadcast_to(turns, frame.count)
    parts = Parts(frame.count)
    rows, done = np.arange(frame.count), 0
    for until in np.unique(turns).tolist():
        if until > done:
            inner = frame if len(rows) == frame.count else frame.part(rows)
            starts, steps = some(begin, rows), some(by, rows)
            carried = _turned(inner, routine, carried, starts, steps, done, until)
            done = until
        ends = turns[rows] == until
        parts.add(rows[ends], _chosen(carried, ends))
        rows, carried = rows[~ends], _chosen(carried, ~ends)
    return parts.together()


def _chosen(values: Sequence[Array], which: Array) -> list[Array]:
    """Values of the programs that a mask names."""
    return [value if len(value) == 1 < len(which) else value[which] for value in values]


@step("scf.if")
def _if(op: Operation, binder: Binder) -> Step | None:
    (condition,) = op.operands
    known = binder.fixed(op.operands)
    if known is not None and (known[0] == known[0][0]).all():
        return _chosen_branch(op, binder, 0 if known[0][0] else 1)
    inner = binder.for_parts()
    routines = [inner.block(region) for region in op.regions]

    def branch(frame: Frame) -> None:
        true = frame.get(condition)
        if true.all() or not true.any():
            chosen = 0 if true[0] else 1
            made = routines[chosen].run(frame) if chosen < len(routines) else []
        else:
            parts = Parts(frame.count)
            for routine, mask in zip(routines, (true, ~true), strict=False):
                rows = np.flatnonzero(mask)
                parts.add(rows, routine.run(frame.part(rows)))
            made = parts.together() if op.results else []
        frame.values.update(zip(op.results, made, strict=True))

    return branch


def _chosen_branch(op: Operation, binder: Binder, chosen: int) -> Step | None:
    """The branch that all programs take in every run."""
    if chosen >= len(op.regions):
        return None
    routine = binder.block(op.regions[chosen])
    known = binder.fixed(routine.results)
    if known is not None:
        binder.fix(op.results, known)

    def branch(frame: Frame) -> None:
        frame.values.update(zip(op.results, routine.run(frame), strict=True))

    return branch if routine.steps or known is None else None


@step("scf.while")
def _while(op: Operation, binder: Binder) -> Step:
    inner = binder.for_parts()
    before, after = (inner.block(region) for region in op.regions)

    def repeat(frame: Frame) -> None:
        inner, rows = frame, np.arange(frame.count)
        parts = Parts(frame.count)
        carried = [frame.get(value) for value in op.operands]
        while len(rows):
            goes_on, *handed = before.run(inner, carried)
            goes_on = np.broadcast_to(goes_on, len(rows))
            if not goes_on.all():
                parts.add(rows[~goes_on], _chosen(handed, ~goes_on))
                rows, handed = rows[goes_on], _chosen(handed, goes_on)
                inner = frame.part(rows)
            if len(rows):
                carried = after.run(inner, handed)
        frame.values.update(zip(op.results, parts.together(), strict=True))

    return repeat


@step("tt.call")
def _call(op: Operation, binder: Binder) -> Step:
    routine = binder.function(op.attributes["callee"])

    def call(frame: Frame) -> None:
        made = routine.run(frame, [frame.get(operand) for operand in op.operands])
        frame.values.update(zip(op.results, made, strict=True))

    return call


@step("tt.assert")
def _assert(op: Operation, binder: Binder) -> Step:
    (condition,) = op.operands

    def check(frame: Frame) -> None:
        if not frame.get(condition).all():
            raise KernelError("an assertion fails")

    return check
