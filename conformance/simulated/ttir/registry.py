"""Which operations are known, and how each is made a step over the programs of a frame."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from glm5_hal.conformance.simulated.ttir.chip import Change, Chip
from glm5_hal.conformance.simulated.ttir.errors import KernelError, TtirError
from glm5_hal.conformance.simulated.ttir.frames import Frame
from glm5_hal.conformance.simulated.ttir.graph import Block, Function, Module, Operation, Value
from glm5_hal.conformance.simulated.ttir.types import Array

Step = Callable[[Frame], None]
Kernel = Callable[..., Any]
"""Arrays of the operands to the array of the result, or to a tuple where there are several."""

_pure: dict[str, Callable[[Operation, Chip], Kernel]] = {}
_steps: dict[str, Callable[[Operation, "Binder"], Step]] = {}

Made = Callable[[Operation, Chip], Kernel]
Bound = Callable[[Operation, "Binder"], Step]


def pure(*names: str) -> Callable[[Made], Made]:
    """Register operations whose results depend on their operands alone."""

    def register(make: Made) -> Made:
        _pure.update(dict.fromkeys(names, make))
        return make

    return register


def step(*names: str) -> Callable[[Bound], Bound]:
    """Register operations that need the frame: memory, programs, control flow."""

    def register(make: Bound) -> Bound:
        _steps.update(dict.fromkeys(names, make))
        return make

    return register


def is_pure(op: Operation) -> bool:
    """Whether an operation can be done at another time."""
    return op.name in _pure and not op.regions


class Routine:
    """A block that can be run.

    Args:
        steps: of its operations.
        block: its terminator hands over the results.
        fixed: values that are the same in every run.
        where: the kernel, for messages.
    """

    def __init__(
        self,
        steps: Sequence[tuple[Operation, Step]],
        block: Block,
        fixed: Mapping[Value, Array],
        where: str,
    ) -> None:
        self.steps = [
            (op, one, tuple(value for value in op.drops if value not in fixed)) for op, one in steps
        ]
        self.fixed = {
            result: fixed[result]
            for op in block.operations
            for result in op.results
            if result in fixed
        }
        self.arguments = block.arguments
        self.where = where
        self.results: tuple[Value, ...] = block.operations[-1].operands

    def run(self, frame: Frame, arguments: Sequence[Array] = ()) -> list[Array]:
        """What the block hands over, for arguments [P or 1, ...]."""
        values = frame.values
        values.update(self.fixed)
        values.update(zip(self.arguments, arguments, strict=False))
        at: Operation | None = None
        try:
            for op, one, drops in self.steps:
                at = op
                one(frame)
                for dropped in drops:
                    values.pop(dropped, None)
        except KernelError as error:
            if at is None or error.placed:
                raise
            raise KernelError(_placed(self.where, at, error), placed=True) from error
        return [frame.get(value) for value in self.results]


def _placed(kernel: str, op: Operation, error: Exception) -> str:
    return f"{kernel}: {error} (line {op.line} of its TTIR: {op.text[:200]})"


class Binder:
    """Makes blocks of one kernel runnable on one chip.

    Args:
        module: functions of the kernel.
        chip: that runs it.
        kernel: its name.
    """

    def __init__(self, module: Module, chip: Chip, kernel: str) -> None:
        self.module = module
        self.chip = chip
        self.kernel = kernel
        self._functions: dict[str, Routine] = {}
        self._fixed: dict[Value, Array] = {}

    def function(self, name: str) -> Routine:
        """A function that the kernel calls."""
        if name not in self._functions:
            found: Function | None = self.module.functions.get(name)
            if found is None:
                raise TtirError(f"{self.kernel}: it calls {name}, which its TTIR lacks")
            self._functions[name] = self.block(found.body)
        return self._functions[name]

    def block(self, block: Block) -> Routine:
        """The steps of a block."""
        steps = []
        for op in block.operations[:-1]:
            one = self._step(op)
            if one is not None:
                steps.append((op, one))
        return Routine(steps, block, self._fixed, self.kernel)

    def _step(self, op: Operation) -> Step | None:
        """What an operation does; None where its results are known already."""
        try:
            self.chip.check(op)
            if op.name in _steps:
                return _steps[op.name](op, self)
            if op.name not in _pure:
                raise TtirError(f"the operation {op.name} is not known")
            return self._pure_step(op, _pure[op.name](op, self.chip))
        except TtirError as error:
            if error.placed:
                raise
            raise TtirError(_placed(self.kernel, op, error), placed=True) from error

    def _pure_step(self, op: Operation, kernel: Kernel) -> Step | None:
        change = self.chip.after(op)
        made = kernel if change is None else _changed(kernel, change)
        known = [self._fixed.get(operand) for operand in op.operands]
        if any(one is None for one in known):
            return _stored(op, made)
        with np.errstate(all="ignore"):
            found = made(*known)
        results = (found,) if len(op.results) == 1 else found
        self._fixed.update(zip(op.results, results, strict=True))
        return None


def _changed(kernel: Kernel, change: Change) -> Kernel:
    return lambda *operands: change(kernel(*operands))


def _stored(op: Operation, kernel: Kernel) -> Step:
    """Store what a kernel makes of the operands."""
    operands, results = op.operands, op.results
    if len(results) != 1:

        def several(frame: Frame) -> None:
            made = kernel(*[frame.get(operand) for operand in operands])
            frame.values.update(zip(results, made, strict=True))

        return several
    (result,) = results
    if len(operands) == 1:
        (only,) = operands

        def unary(frame: Frame) -> None:
            frame.values[result] = kernel(frame.get(only))

        return unary
    if len(operands) == 2:
        left, right = operands

        def binary(frame: Frame) -> None:
            frame.values[result] = kernel(frame.get(left), frame.get(right))

        return binary

    def general(frame: Frame) -> None:
        frame.values[result] = kernel(*[frame.get(operand) for operand in operands])

    return general
