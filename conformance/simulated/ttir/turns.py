"""Loops whose turns are known before they run: each turn becomes steps of its own."""

from collections.abc import Sequence

from glm5_hal.conformance.simulated.ttir.frames import Frame
from glm5_hal.conformance.simulated.ttir.graph import Operation, Value
from glm5_hal.conformance.simulated.ttir.registry import Binder, Routine, Step
from glm5_hal.conformance.simulated.ttir.types import Array

STEPS = 1024
"""Most operations that a loop's turns become."""


def known_indices(op: Operation, binder: Binder) -> list[Array] | None:
    """The index of each turn: [1]; None where turns are not known, differ or are too many."""
    bounds = binder.fixed(op.operands[:3]) if binder.launch is not None else None
    if bounds is None or any(len(bound) != 1 for bound in bounds):
        return None
    begin, end, by = bounds
    if by[0] <= 0:
        return None
    turns = max(-((int(begin[0]) - int(end[0])) // int(by[0])), 0)
    if turns * len(op.regions[0].operations) > STEPS:
        return None
    return [begin + by * by.dtype.type(turn) for turn in range(turns)]


def unrolled(op: Operation, binder: Binder, indices: Sequence[Array]) -> Step | None:
    """One turn after the other, with what is known in each."""
    (body,) = op.regions
    initial = op.operands[3:]
    carried = [_known(binder, value) for value in initial]
    routines: list[tuple[Array, Routine]] = []
    for index in indices:
        turn = binder.turn()
        for argument, array in zip(body.arguments, (index, *carried), strict=True):
            if array is not None:
                turn.fix((argument,), (array,))
        routine = turn.block(body)
        carried = [_known(turn, value) for value in routine.results]
        routines.append((index, routine))
    for result, array in zip(op.results, carried, strict=True):
        if array is not None:
            binder.fix((result,), (array,))
    if all(array is not None for array in carried) and not any(one.steps for _, one in routines):
        return None

    def loop(frame: Frame) -> None:
        handed = [frame.get(value) for value in initial]
        for index, routine in routines:
            handed = routine.run(frame, (index, *handed))
        frame.values.update(zip(op.results, handed, strict=True))

    return loop


def _known(binder: Binder, value: Value) -> Array | None:
    found = binder.fixed((value,))
    return None if found is None else found[0]
