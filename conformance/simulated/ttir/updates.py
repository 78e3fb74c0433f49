"""Atomic updates: one element after the other, in the order of the programs."""

from collections.abc import Callable

import numpy as np

from glm5_hal.conformance.simulated.ttir.errors import TtirError
from glm5_hal.conformance.simulated.ttir.frames import Frame
from glm5_hal.conformance.simulated.ttir.graph import Operation, Value
from glm5_hal.conformance.simulated.ttir.integers import signed, unsigned
from glm5_hal.conformance.simulated.ttir.registry import Binder, Step, step
from glm5_hal.conformance.simulated.ttir.types import Array

Update = Callable[[Array, Array], Array]

UPDATES: dict[str, Update] = {
    "add": np.add,
    "fadd": np.add,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "max": np.maximum,
    "min": np.minimum,
    "umax": lambda a, b: signed(np.maximum(unsigned(a), unsigned(b))),
    "umin": lambda a, b: signed(np.minimum(unsigned(a), unsigned(b))),
    "exch": lambda a, b: b,
}
"""Kinds to the new element, of the old one and the operand."""


def _wide(frame: Frame, value: Value, shape: tuple[int, ...]) -> Array:
    """Of every program and element, in order: [P * elements]."""
    return np.broadcast_to(frame.get(value), (frame.count, *shape)).reshape(-1)


@step("tt.atomic_rmw")
def _update(op: Operation, binder: Binder) -> Step:
    kind = op.words[0]
    if kind not in UPDATES or op.operands[1].type.element == "bf16":
        raise TtirError(f"the update {kind} of {op.operands[1].type} is not executed here")
    own, shape = UPDATES[kind], op.type.shape
    pointer, operand, *masks = op.operands
    (result,), dtype = op.results, op.type.storage

    def update(frame: Frame) -> None:
        at, given = _wide(frame, pointer, shape), _wide(frame, operand, shape)
        known = _wide(frame, masks[0], shape) if masks else np.ones(at.shape, np.bool_)
        old = np.zeros(at.shape, dtype)
        elements = frame.memory.change(at[known], dtype)
        for place in np.flatnonzero(known):
            here = at[place]
            old[place] = elements[here]
            elements[here] = own(elements[here : here + 1], given[place : place + 1])[0]
        frame.values[result] = old.reshape(frame.count, *shape)

    return update


@step("tt.atomic_cas")
def _exchange(op: Operation, binder: Binder) -> Step:
    pointer, expected, wanted = op.operands
    shape, dtype = op.type.shape, op.type.storage
    (result,) = op.results

    def exchange(frame: Frame) -> None:
        at, old, new = (_wide(frame, value, shape) for value in (pointer, expected, wanted))
        found = np.zeros(at.shape, dtype)
        elements = frame.memory.change(at, dtype)
        for place, here in enumerate(at):
            found[place] = elements[here]
            if found[place] == old[place]:
                elements[here] = new[place]
        frame.values[result] = found.reshape(frame.count, *shape)

    return exchange
