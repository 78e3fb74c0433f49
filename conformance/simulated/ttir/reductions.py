"""Reductions and scans along an axis.

Sums of floats, and everything that is not a single known operation, go by halves: the upper half of
what is left is put onto the lower one, until one element is left. So the order is the same for
every program, and for every number of them.
"""

from collections.abc import Callable, Sequence

import numpy as np

from glm5_hal.conformance.simulated.ttir.errors import TtirError
from glm5_hal.conformance.simulated.ttir.frames import Frame
from glm5_hal.conformance.simulated.ttir.graph import Block, Operation
from glm5_hal.conformance.simulated.ttir.registry import Binder, Routine, Step, step
from glm5_hal.conformance.simulated.ttir.shapes import full
from glm5_hal.conformance.simulated.ttir.types import Array, Type

Whole = Callable[[Array, int], Array]

_REDUCED: dict[str, "np.ufunc"] = {
    "arith.addi": np.add,
    "arith.muli": np.multiply,
    "arith.maxsi": np.maximum,
    "arith.minsi": np.minimum,
    "arith.andi": np.bitwise_and,
    "arith.ori": np.bitwise_or,
    "arith.xori": np.bitwise_xor,
    "arith.maxnumf": np.fmax,
    "arith.minnumf": np.fmin,
    "arith.maximumf": np.maximum,
    "arith.minimumf": np.minimum,
}
"""Operations whose order does not matter."""


def known(body: Block) -> "np.ufunc | None":
    """What a region does, where that is one operation in whose order nothing can be seen."""
    if len(body.operations) != 2:
        return None
    op = body.operations[0]
    same = set(op.operands) == set(body.arguments) and op.results == body.operations[1].operands
    narrow = op.type.element in ("i1", "bf16")
    return _REDUCED.get(op.name) if same and not narrow and len(body.arguments) == 2 else None


@step("tt.reduce")
def _reduce(op: Operation, binder: Binder) -> Step:
    axis = int(op.attributes["axis"]) + 1
    kinds = [operand.type for operand in op.operands]
    own = known(op.regions[0])
    routine = binder.block(op.regions[0])

    def reduce(frame: Frame) -> None:
        found = [
            _along(frame.get(x), kind, axis) for x, kind in zip(op.operands, kinds, strict=True)
        ]
        if own is not None:
            made = [own.reduce(found[0], axis=axis, dtype=kinds[0].storage)]
        else:
            made = _halved(frame, routine, found, axis)
        frame.values.update(zip(op.results, made, strict=True))

    return reduce


def _along(x: Array, kind: Type, axis: int) -> Array:
    """With all elements along an axis."""
    size = kind.shape[axis - 1]
    if x.shape[axis] == size:
        return x
    return np.broadcast_to(x, (*x.shape[:axis], size, *x.shape[axis + 1 :]))


def _halved(frame: Frame, routine: Routine, found: Sequence[Array], axis: int) -> list[Array]:
    """The region on halves, until one element is left."""
    parts = list(np.broadcast_arrays(*found)) if len(found) > 1 else list(found)
    while (size := parts[0].shape[axis]) > 1:
        if size % 2:
            raise TtirError(f"an axis of {size} elements is no power of two")
        lower = [_taken(part, axis, 0, size // 2) for part in parts]
        upper = [_taken(part, axis, size // 2, size) for part in parts]
        parts = routine.run(frame, (*lower, *upper))
    return [part.squeeze(axis) for part in parts]


def _taken(x: Array, axis: int, begin: int, end: int) -> Array:
    place = (slice(None),) * axis
    return x[(*place, slice(begin, end))]


@step("tt.scan")
def _scan(op: Operation, binder: Binder) -> Step:
    axis = int(op.attributes["axis"]) + 1
    backwards = op.attributes.get("reverse", "false").strip() == "true"
    kinds = [operand.type for operand in op.operands]
    own = known(op.regions[0])
    routine = binder.block(op.regions[0])

    def scan(frame: Frame) -> None:
        found = [full(frame.get(x), kind.shape) for x, kind in zip(op.operands, kinds, strict=True)]
        if backwards:
            found = [np.flip(x, axis) for x in found]
        if own is not None:
            made = [own.accumulate(found[0], axis=axis, dtype=kinds[0].storage)]
        else:
            made = _one_by_one(frame, routine, found, axis)
        if backwards:
            made = [np.flip(x, axis) for x in made]
        frame.values.update(zip(op.results, made, strict=True))

    return scan


def _one_by_one(frame: Frame, routine: Routine, found: Sequence[Array], axis: int) -> list[Array]:
    """The region on what came before and the next element."""
    parts = list(np.broadcast_arrays(*found)) if len(found) > 1 else list(found)
    made = [np.array(part) for part in parts]
    for place in range(1, parts[0].shape[axis]):
        before = [_taken(part, axis, place - 1, place) for part in made]
        here = [_taken(part, axis, place, place + 1) for part in parts]
        for part, result in zip(made, routine.run(frame, (*before, *here)), strict=True):
            _taken(part, axis, place, place + 1)[...] = result
    return made
