"""The register of graph builders, and what each is given: declared inputs and options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from glm5_hal.contract import OPS
from glm5_hal.exact import digits_of
from glm5_hal.kernels.onnx.builder import (
    BOOL,
    F32,
    I8,
    I32,
    I64,
    TYPES,
    Graph,
    Value,
)
from glm5_hal.kernels.onnx.exact import Columns, fixed
from glm5_hal.kernels.onnx.signature import Signature
from glm5_hal.ops.linear_limbs import LIMBS

Shape = tuple[str | int, ...]
Builder = Callable[["Call"], tuple[Value, ...]]
"""Declares inputs, makes nodes, returns the results in the contract's order."""

BUILDERS: dict[str, Builder] = {}
"""By name of the op."""


def builds(op: str) -> Callable[[Builder], Builder]:
    """Enter a builder."""

    def enter(builder: Builder) -> Builder:
        BUILDERS[op] = builder
        return builder

    return enter


def result_shapes(signature: Signature) -> list[Shape]:
    """Dimensions of the results: the contract's, and the numbers that the graph is built for."""
    op = OPS[signature.op]
    if op.name == "cache_write":
        return [("slots", "W")]
    known = {name: value for name, value in signature.options if type(value) is int}
    if "experts" in known:
        known["experts+1"] = known["experts"] + 1
    known["limbs"] = LIMBS
    return [tuple(known.get(d, d) for d in array.shape.split()) for array in op.results]


class Call:
    """One op call as its builder sees it.

    Inputs are declared in the order in which they are asked for; their dimensions are the
    contract's symbols.
    """

    def __init__(self, signature: Signature, graph: Graph) -> None:
        self.signature, self.graph = signature, graph

    @property
    def exact(self) -> bool:
        """Whether the graph gives the exact profile's bytes."""
        return self.signature.exact

    def has(self, name: str) -> bool:
        """Whether an optional tensor was given."""
        return self.signature.has(name)

    def has_option(self, name: str) -> bool:
        """Whether an optional plain argument was given."""
        return name in dict(self.signature.options)

    def option(self, name: str) -> Any:
        """A plain argument, or a size written into the graph."""
        return self.signature.option(name)

    def shape(self, name: str) -> Shape:
        """Dimensions of an argument as the contract writes them."""
        return tuple(OPS[self.signature.op].arguments[name].shape.split())

    def type(self, name: str) -> int:
        """Element type of an argument."""
        return TYPES[self.signature.dtype(name)]

    def tensor(self, name: str) -> Value:
        """A tensor, cache or weight as it is."""
        return self.graph.input(name, self.type(name), self.shape(name))

    def columns(self, name: str) -> Columns:
        """A weight [..., N, K], fixed: here, or by the backend when it was loaded."""
        shape, count = self.shape(name), digits_of(self.signature.dtype(name))
        if name not in self.signature.prepared:
            return Columns.of(fixed(self.tensor(name), count), len(shape))
        *batch, n, k = shape
        return Columns(
            self.graph.input(f"{name}.digits", I8, (count, *batch, k, n)),
            self.graph.input(f"{name}.exponent", I64, (*batch, n)),
            self.graph.input(f"{name}.finite", BOOL, (*batch, n)),
            count,
        )

    def wide(self, name: str) -> Value:
        """A weight [..., N, K] as [..., K, N] float32 for the fast profile."""
        *batch, n, k = self.shape(name)
        if name in self.signature.prepared:
            return self.graph.input(name, F32, (*batch, k, n))
        rank = len(batch)
        return self.tensor(name).to(F32).transpose(*range(rank), rank + 1, rank)

    def int32(self, name: str, *shape: str) -> Value:
        """An int32 input as int64, in which positions are computed."""
        return self.graph.input(name, I32, shape or self.shape(name)).to(I64)
