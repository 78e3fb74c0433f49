"""How much memory the tensors of a function take that are alive at the same time.

The text is MLIR whose values are tensors, one operation a line. A value is alive from the line
that names it to the last line that uses it, and to the end of a loop that uses it from outside.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod

_TYPE = re.compile(r"\b(?:tensor|memref)<((?:\d+x)*)(?:i|bf|f)(\d+)\b[^>]*>+")
_VALUE = re.compile(r"%[\w-]+(?:#\d+)?")
_RESULTS = re.compile(r"(%[\w-]+)(?::(\d+))? = ")
_NAME = re.compile(r"(call|[a-z_]+\.[a-z_0-9]+)\b")
_CARRIED = re.compile(r"(%[\w-]+) = (%[\w-]+(?:#\d+)?)")

_SAME = frozenset(
    [
        "arith.bitcast",
        "bufferization.to_tensor",
        "memref.subview",
        "tensor.collapse_shape",
        "tensor.expand_shape",
        "tensor.extract_slice",
        "tensor.reshape",
    ]
)
"""Their result is their first operand, seen otherwise."""
_NOTHING = frozenset(
    ["bufferization.alloc_tensor", "linalg.fill", "memref.reinterpret_cast", "tensor.empty"]
)
"""Their result takes no memory: numbers that are all the same, places, nothing yet."""
_PRODUCTS = frozenset(["linalg.batch_matmul", "linalg.matmul"])
_OVER = _PRODUCTS | {"tensor.insert", "tensor.insert_slice"}
"""They write their result over an operand: what is added to, or inserted into."""
_NEUTRAL = (
    _PRODUCTS
    | _SAME
    | _NOTHING
    | {"annotation.mark", "memref.alloc", "memref.copy", "scf.for", "scf.if", "scf.yield"}
)
"""They leave open whether a value is a matrix unit's own."""


@dataclass(frozen=True)
class _Operation:
    """One line.

    Attributes:
        line: its number.
        end: the line where its regions end.
        name: such as ``arith.addf``; empty where a line holds no operation.
        results: names of its values.
        operands: values that it uses, in order.
        carried: arguments of a loop and what they begin with.
        types: bytes of every tensor type in it, in order.
        loops: lines of the loops around it.
    """

    line: int
    end: int
    name: str
    results: tuple[str, ...]
    operands: tuple[str, ...]
    carried: tuple[tuple[str, str], ...]
    types: tuple[int, ...]
    loops: tuple[int, ...]


@dataclass
class _Storage:
    """Memory of one value, or of several that share it."""

    size: int
    born: int
    loops: tuple[int, ...]
    dies: int = 0
    computed: bool = False
    """Whether something else than a matrix product makes or uses it."""


def alive(text: str, row: int) -> int:
    """The most bytes that are alive between two operations.

    Constants are not counted, nor what only matrix products use: that lies in the matrix unit.

    Args:
        text: a module of one function.
        row: bytes that the last dimension of a tensor is rounded up to.
    """
    operations = list(_operations(text.splitlines(), row))
    ends = {operation.line: operation.end for operation in operations}
    change = [0] * (max(ends.values(), default=0) + 2)
    for storage in _storages(operations, ends):
        if storage.computed and storage.dies > storage.born:
            change[storage.born] += storage.size
            change[storage.dies] -= storage.size
    most = now = 0
    for step in change:
        now += step
        most = max(most, now)
    return most


def size_of(match: re.Match[str], row: int) -> int:
    """Bytes of a tensor whose last dimension is rounded up to `row` bytes."""
    *shape, last = [1, *(int(part) for part in match[1].split("x") if part)]
    last_bytes = ceil(last * int(match[2]) / 8)
    return prod(shape) * ceil(last_bytes / row) * row


def _operations(lines: list[str], row: int) -> Iterator[_Operation]:
    ends = _ends(lines)
    loops: list[int] = []
    for number, line in enumerate(lines):
        text = line.strip()
        loops = [loop for loop in loops if ends[loop] > number]
        head = _RESULTS.match(text)
        rest = text[head.end() :] if head else text
        name = _NAME.match(rest)
        if not name or name[1] == "func.func":
            continue
        count = int(head[2] or 0) if head else 0
        results = tuple(f"{head[1]}#{i}" for i in range(count)) or (head[1],) if head else ()
        carried = ()
        if "iter_args(" in rest:
            carried = tuple(_CARRIED.findall(rest.split("iter_args(", 1)[1]))
        types = [size_of(match, row) for match in _TYPE.finditer(rest)]
        if name[1] in ("arith.cmpi", "arith.cmpf"):
            types = [size_of(match, row) for match in _TYPE.finditer(_as_bits(rest))]
        operands = tuple(_VALUE.findall(rest))
        yield _Operation(
            *(number, ends.get(number, number), name[1], results),
            *(operands, carried, tuple(types), tuple(loops)),
        )
        if name[1] in ("scf.for", "scf.while"):
            loops = [*loops, number]


def _as_bits(comparison: str) -> str:
    """A comparison's line with the type of its result in place of its operands'."""
    return re.sub(r"x(?:i|bf|f)\d+>", "xi1>", comparison)


def _ends(lines: list[str]) -> dict[int, int]:
    """The last line of every line's regions."""
    opened: list[int] = []
    ends = {}
    for number, line in enumerate(lines):
        if line.strip().startswith("}") and opened:
            ends[opened.pop()] = number
        if line.rstrip().endswith("{"):
            opened.append(number)
    return ends


def _storages(operations: list[_Operation], ends: dict[int, int]) -> list[_Storage]:
    """Every storage with its life."""
    values: dict[str, _Storage] = {}
    found: list[_Storage] = []
    around: list[_Operation] = []  # operations whose regions are open

    def new(name: str, size: int, born: int, loops: tuple[int, ...]) -> _Storage:
        storage = values[name] = _Storage(size, born, loops)
        found.append(storage)
        return storage

    for operation in operations:
        around = [outer for outer in around if outer.end > operation.line]
        at = around[-1].end if operation.name == "scf.yield" and around else operation.line
        for operand in operation.operands:
            if storage := values.get(operand):
                outside = [loop for loop in operation.loops if loop not in storage.loops]
                storage.dies = max(storage.dies, ends[outside[0]] if outside else at)
                storage.computed |= operation.name not in _NEUTRAL
        for (name, _), size in zip(operation.carried, operation.types, strict=False):
            new(name, size, operation.line, (*operation.loops, operation.line))
        shared = _shared(operation, values)
        if operation.end > operation.line and operation.name.startswith("scf."):
            around.append(operation)
        for place, name in enumerate(operation.results):
            if shared:
                values[name] = shared
            elif operation.types and operation.name not in _NOTHING:
                several = len(operation.results) > 1
                size = operation.types[place] if several else operation.types[-1]
                born = operation.end if operation.name.startswith("scf.") else operation.line
                storage = new(name, size, born, operation.loops)
                storage.computed = operation.name not in _NEUTRAL
    return found


def _shared(operation: _Operation, values: dict[str, _Storage]) -> _Storage | None:
    """What the result is written over, or seen in."""
    known = [values[operand] for operand in operation.operands if operand in values]
    if operation.name in _SAME:
        return known[0] if known else None
    if operation.name in _OVER:
        place = 2 if operation.name in _PRODUCTS else 1
        into = operation.operands[place : place + 1]
        return values.get(into[0]) if into else None
    return None
