"""A kernel as a tree of operations on values, each defined once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from glm5_hal.conformance.simulated.ttir.types import Type


@dataclass(eq=False, slots=True)
class Value:
    """What an operation gives or a block takes; known by its identity.

    Attributes:
        type: of it.
        definition: the operation; None for what a block takes.
    """

    type: Type
    definition: "Operation | None" = None


@dataclass(eq=False, slots=True)
class Operation:
    """One operation.

    Attributes:
        name: such as ``arith.addi``.
        operands: in order.
        results: often one.
        words: of its text that are neither operands nor types, such as a predicate.
        attributes: name to text.
        regions: blocks inside it.
        line: of the TTIR text, from 1 on.
        text: that line.
        drops: values that nothing uses after it.
    """

    name: str
    operands: tuple[Value, ...]
    results: tuple[Value, ...]
    words: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    regions: "tuple[Block, ...]" = ()
    line: int = 0
    text: str = ""
    drops: tuple[Value, ...] = ()

    @property
    def type(self) -> Type:
        """Of its first result."""
        return self.results[0].type

    def used(self) -> Iterator[Value]:
        """Every value that it or an operation inside it takes."""
        yield from self.operands
        for block in self.regions:
            for inner in block.operations:
                yield from inner.used()


@dataclass(eq=False, slots=True)
class Block:
    """Operations in order; the last one hands over what the block gives.

    Attributes:
        arguments: what it takes.
        operations: at least one.
    """

    arguments: tuple[Value, ...]
    operations: list[Operation]


@dataclass(eq=False, slots=True)
class Function:
    """A kernel, or a function that it calls.

    Attributes:
        name: of it.
        body: takes the arguments.
    """

    name: str
    body: Block


@dataclass(eq=False, slots=True)
class Module:
    """Functions by name; the first is the kernel.

    Attributes:
        functions: by name.
        entry: the kernel.
    """

    functions: dict[str, Function]
    entry: Function


def largest(block: Block) -> int:
    """Elements of the largest tensor of a block, and of what is inside it."""
    most = 1
    for op in block.operations:
        for value in (*op.operands, *op.results):
            size = 1
            for length in value.type.shape:
                size *= length
            most = max(most, size)
        most = max([most, *map(largest, op.regions)])
    return most
