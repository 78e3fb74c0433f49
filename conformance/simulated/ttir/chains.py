"""Elementwise operations that follow one another, done in one call.

Most of a kernel are operations on integers and bits, which take numpy longer to begin than to do.
The extension does a chain of them at once; what it does not know, numpy does between the chains.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from glm5_hal.conformance.simulated import build
from glm5_hal.conformance.simulated.ttir.chip import Chip
from glm5_hal.conformance.simulated.ttir.frames import Frame
from glm5_hal.conformance.simulated.ttir.graph import Block, Operation, Value
from glm5_hal.conformance.simulated.ttir.types import Array, Type

LEAST = 3
"""Operations that are worth a chain."""

BINARY = {
    "arith.addi": "add",
    "arith.subi": "sub",
    "arith.muli": "mul",
    "arith.andi": "and",
    "arith.ori": "or",
    "arith.xori": "xor",
    "arith.shli": "shl",
    "arith.shrsi": "shrs",
    "arith.shrui": "shru",
    "arith.maxsi": "maxs",
    "arith.minsi": "mins",
}
BITS = ("add", "sub", "mul", "and", "or", "xor", "maxs", "mins")
INTEGERS = ("i8", "i16", "i32", "i64")
SWAPPED = {"sgt": "slt", "sge": "sle", "ugt": "ult", "uge": "ule"}
FLOATS = ("oeq", "une", "olt", "ole", "ogt", "oge")

Made = Callable[[Frame], None]


class _Writer:
    """Writes operations as the extension reads them.

    Args:
        known: values that are the same in every run.
    """

    def __init__(self, operations: Sequence[Operation], known: Mapping[Value, Array]) -> None:
        made = {result for op in operations for result in op.results}
        taken = dict.fromkeys(
            value for op in operations for value in op.operands if value not in made
        )
        self.given = [value for value in taken if value not in known]
        self.fixed = [known[value] for value in taken if value in known]
        order = [*self.given, *(value for value in taken if value in known)]
        self.number = {value: place for place, value in enumerate(order)}
        self.count = len(order)
        self.written: list[tuple[Any, ...]] = []
        for op in operations:
            _WRITERS[op.name](self, op)
            self.number[op.results[0]] = self.count - 1

    def numbers(self, op: Operation) -> list[int]:
        """Of the operands."""
        return [self.number[value] for value in op.operands]

    def do(self, name: str, kind: Type, operands: Sequence[int]) -> None:
        """An operation whose result is of a type."""
        self._write((name, kind.storage.itemsize, list(operands)))

    def see(self, operand: int, behind: int = 0, between: int = -1) -> None:
        """The same elements with axes of length 1: behind the others, or before one of them."""
        self._write(("view", behind, between, operand))

    def _write(self, made: tuple[Any, ...]) -> None:
        self.written.append(made)
        self.count += 1


def _binary(writer: _Writer, op: Operation) -> None:
    writer.do(f"{BINARY[op.name]}.{op.type.element}", op.type, writer.numbers(op))


def _compare(writer: _Writer, op: Operation) -> None:
    (name,), numbers = op.words, writer.numbers(op)
    if name in SWAPPED:
        name, numbers = SWAPPED[name], numbers[::-1]
    writer.do(f"{name}.{op.operands[0].type.element}", op.type, numbers)


def _compare_floats(writer: _Writer, op: Operation) -> None:
    writer.do(f"{_predicate(op)}.f32", op.type, writer.numbers(op))


def _predicate(op: Operation) -> str:
    return next(word for word in op.words if word != "fastmath")


def _select(writer: _Writer, op: Operation) -> None:
    writer.do(f"select.{op.type.storage.itemsize}", op.type, writer.numbers(op))


def _cast(writer: _Writer, op: Operation) -> None:
    source, goal = op.operands[0].type.element, op.type.element
    sign = "unsigned" if op.name == "arith.extui" else "signed"
    name = f"bit.{source}" if goal == "i1" else f"{sign}.{source}.{goal}"
    writer.do(name, op.type, writer.numbers(op))


def _to_float(writer: _Writer, op: Operation) -> None:
    writer.do("float.i32", op.type, writer.numbers(op))


def _move(writer: _Writer, op: Operation) -> None:
    pointer, distance = writer.numbers(op)
    if op.operands[1].type.element != "i64":
        writer.do(f"signed.{op.operands[1].type.element}.i64", op.type, [distance])
        distance = writer.count - 1
    writer.do("add.i64", op.type, [pointer, distance])


def _same(writer: _Writer, op: Operation) -> None:
    writer.see(writer.numbers(op)[0])


def _splat(writer: _Writer, op: Operation) -> None:
    writer.see(writer.numbers(op)[0], behind=len(op.type.shape))


def _expand(writer: _Writer, op: Operation) -> None:
    writer.see(writer.numbers(op)[0], between=int(op.attributes["axis"]) + 1)


_WRITERS: dict[str, Callable[[_Writer, Operation], None]] = {
    **dict.fromkeys(BINARY, _binary),
    "arith.cmpi": _compare,
    "arith.cmpf": _compare_floats,
    "arith.select": _select,
    "arith.extsi": _cast,
    "arith.extui": _cast,
    "arith.trunci": _cast,
    "arith.sitofp": _to_float,
    "tt.addptr": _move,
    "tt.bitcast": _same,
    "arith.bitcast": _same,
    "tt.broadcast": _same,
    "tt.splat": _splat,
    "tt.expand_dims": _expand,
}
VIEWS = ("tt.bitcast", "arith.bitcast", "tt.broadcast", "tt.splat", "tt.expand_dims")


def is_link(op: Operation, chip: Chip) -> bool:
    """Whether the extension can do an operation as the chip does it."""
    if op.name not in _WRITERS or chip.after(op) is not None:
        return False
    first, element = op.operands[0].type, op.type.element
    if op.name in BINARY:
        return element in INTEGERS or (element == "i1" and BINARY[op.name] in BITS)
    if op.name == "arith.cmpi":
        return first.element in INTEGERS or op.words[0] in ("eq", "ne")
    if op.name == "arith.cmpf":
        return first.element == "f32" and _predicate(op) in FLOATS
    if op.name == "arith.select":
        return bool(first.shape) or not op.type.shape
    if op.name == "arith.sitofp":
        return (first.element, element) == ("i32", "f32")
    if op.name.endswith("bitcast"):
        sizes = {first.storage.itemsize, op.type.storage.itemsize}
        return len(sizes) == 1 and "ptr" not in (first.element, element) and element != "i1"
    return op.name != "tt.splat" or not first.shape


def chained(
    steps: Sequence[tuple[Operation, Made]], block: Block, chip: Chip, known: Mapping[Value, Array]
) -> list[tuple[Operation, Made]]:
    """The steps of a block, those that follow one another in one.

    Args:
        steps: operations and what they do.
        block: that they are of.
        chip: that runs it.
        known: values that are the same in every run.
    """
    uses = Counter(value for op in block.operations for value in set(op.used()))
    made: list[tuple[Operation, Made]] = []
    links: list[tuple[Operation, Made]] = []
    for step in (*steps, None):
        if step is not None and is_link(step[0], chip):
            links.append(step)
            continue
        if sum(op.name not in VIEWS for op, _ in links) >= LEAST:
            made.append(_chain([op for op, _ in links], uses, known))
        else:
            made += links
        links = []
        if step is not None:
            made.append(step)
    return made


def _chain(
    operations: Sequence[Operation], uses: Mapping[Value, int], known: Mapping[Value, Array]
) -> tuple[Operation, Made]:
    inside = Counter(value for op in operations for value in set(op.operands))
    results = [result for op in operations for result in op.results]
    wanted = [value for value in results if uses[value] > inside[value]]
    hidden = set(results).difference(wanted)
    writer = _Writer(operations, known)
    asked = [(writer.number[value], value.type.storage) for value in wanted]
    run = build.load().Chain(len(writer.given), writer.fixed, writer.written, asked).run
    given = writer.given

    def chain(frame: Frame) -> None:
        get = frame.get
        frame.values.update(zip(wanted, run([get(value) for value in given]), strict=True))

    first = operations[0]
    whole = Operation("fused.chain", tuple(given), tuple(wanted), line=first.line, text=first.text)
    drops = (value for op in operations for value in op.drops)
    whole.drops = tuple(value for value in drops if value not in hidden)
    return whole, chain
