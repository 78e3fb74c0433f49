"""Which operations are known, and how each is made a step over the programs of a frame."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

from glm5_hal.conformance.simulated.ttir.chains import chained
from glm5_hal.conformance.simulated.ttir.chip import Change, Chip
from glm5_hal.conformance.simulated.ttir.errors import KernelError, TtirError
from glm5_hal.conformance.simulated.ttir.frames import Frame, Launch
from glm5_hal.conformance.simulated.ttir.graph import Block, Function, Module, Operation, Value
from glm5_hal.conformance.simulated.ttir.types import Array

Step = Callable[[Frame], None]
Kernel = Callable[..., Any]
"""Arrays of the operands to the array of the result, or to a tuple where there are several."""

_pure: dict[str, Callable[[Operation, Chip], Kernel]] = {}
_steps: dict[str, Callable[[Operation, "Binder"], Step | None]] = {}

Made = Callable[[Operation, Chip], Kernel]
Bound = Callable[[Operation, "Binder"], Step | None]


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
        self.arguments = block.arguments
        self.where = where
        self.results: tuple[Value, ...] = block.operations[-1].operands
        used = {*self.results, *(value for op, _ in steps for value in op.used())}
        self.fixed = {value: fixed[value] for value in used if value in fixed}

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

    What depends on known values alone is computed here, once, and is no step.

    Args:
        module: functions of the kernel.
        chip: that runs it.
        kernel: its name.
        known: values that are the same in every run.
        launch: the programs, where the blocks are made for one launch and its like.
    """

    def __init__(
        self,
        module: Module,
        chip: Chip,
        kernel: str,
        known: Mapping[Value, Array] = MappingProxyType({}),
        launch: Launch | None = None,
    ) -> None:
        self.module = module
        self.chip = chip
        self.kernel = kernel
        self.launch = launch
        self._functions: dict[str, Routine] = {}
        self._fixed: dict[Value, Array] = dict(known)

    def function(self, name: str) -> Routine:
        """A function that the kernel calls."""
        if name not in self._functions:
            found: Function | None = self.module.functions.get(name)
            if found is None:
                raise TtirError(f"{self.kernel}: it calls {name}, which its TTIR lacks")
            self._functions[name] = self.for_parts().block(found.body)
        return self._functions[name]

    def block(self, block: Block) -> Routine:
        """The steps of a block."""
        steps = []
        for op in block.operations[:-1]:
            if op.results and all(result in self._fixed for result in op.results):
                continue
            one = self._step(op)
            if one is not None:
                steps.append((op, one))
        linked = chained(steps, block, self.chip, self._fixed)
        return Routine(linked, block, self._fixed, self.kernel)

    def fixed(self, values: Sequence[Value]) -> list[Array] | None:
        """Values that are known; None where one of them is not."""
        found = [self._fixed.get(value) for value in values]
        return None if any(one is None for one in found) else cast("list[Array]", found)

    def fix(self, values: Sequence[Value], arrays: Sequence[Array]) -> None:
        """Make values known."""
        self._fixed.update(zip(values, arrays, strict=True))

    @property
    def known(self) -> Mapping[Value, Array]:
        """What is the same in every run."""
        return MappingProxyType(self._fixed)

    def turn(self) -> "Binder":
        """For a block that is done several times, each time with other known values."""
        return Binder(self.module, self.chip, self.kernel, self._fixed, self.launch)

    def for_parts(self) -> "Binder":
        """For a block that some of the programs may do: what differs among them is not known."""
        if self.launch is None:
            return self
        same = {value: array for value, array in self._fixed.items() if len(array) == 1}
        return Binder(self.module, self.chip, self.kernel, same)

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
        known = self.fixed(op.operands)
        if known is None:
            return _stored(op, made)
        found = made(*known)
        self.fix(op.results, (found,) if len(op.results) == 1 else found)
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
