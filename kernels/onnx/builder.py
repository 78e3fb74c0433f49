"""Writing graphs as expressions: a value is a name with a type, and operators make nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    checker,
    helper,
    numpy_helper,
)

from glm5_hal.kernels.onnx.standard import IR_VERSION, OPSET

BF16 = int(TensorProto.BFLOAT16)
BOOL = int(TensorProto.BOOL)
F32 = int(TensorProto.FLOAT)
F64 = int(TensorProto.DOUBLE)
I8 = int(TensorProto.INT8)
I32 = int(TensorProto.INT32)
I64 = int(TensorProto.INT64)
U8 = int(TensorProto.UINT8)

TYPES = {
    torch.bfloat16: BF16,
    torch.bool: BOOL,
    torch.float32: F32,
    torch.float64: F64,
    torch.int8: I8,
    torch.int32: I32,
    torch.int64: I64,
}
"""Element types of tensors, as ONNX numbers them."""

_NUMPY: dict[int, type[np.generic]] = {
    BOOL: np.bool_,
    F32: np.float32,
    F64: np.float64,
    I8: np.int8,
    I32: np.int32,
    I64: np.int64,
    U8: np.uint8,
}

_UNSIGNED_ZERO = 128

Number = float | int | bool


class Value:
    """A tensor of a graph under construction.

    Numbers beside it in an expression take its element type.

    Attributes:
        graph: where nodes made from it go.
        name: in the graph.
        dtype: element type.
    """

    def __init__(self, graph: Graph, name: str, dtype: int) -> None:
        self.graph, self.name, self.dtype = graph, name, dtype

    def _with(self, op: str, other: Value | Number, dtype: int | None = None) -> Value:
        return self.graph.node(op, self, self.graph.operand(other, self.dtype), dtype=dtype)

    def __add__(self, other: Value | Number) -> Value:
        return self._with("Add", other)

    def __sub__(self, other: Value | Number) -> Value:
        return self._with("Sub", other)

    def __rsub__(self, other: Number) -> Value:
        return self.graph.node("Sub", self.graph.operand(other, self.dtype), self)

    def __mul__(self, other: Value | Number) -> Value:
        return self._with("Mul", other)

    def __truediv__(self, other: Value | Number) -> Value:
        """The nearest float; of integers the quotient rounded towards zero."""
        return self._with("Div", other)

    def __rtruediv__(self, other: Number) -> Value:
        return self.graph.node("Div", self.graph.operand(other, self.dtype), self)

    def __mod__(self, other: Value | Number) -> Value:
        """The remainder of integers."""
        return self._with("Mod", other)

    def __matmul__(self, other: Value) -> Value:
        """A matrix product; of digits the exact one in int32.

        Bytes without sign are digits plus 128.
        """
        if self.dtype == I8:
            return self._with("MatMulInteger", other, I32)
        if self.dtype == U8:
            zero = self.graph.scalar(_UNSIGNED_ZERO, U8)
            return self.graph.node("MatMulInteger", self, other, zero, dtype=I32)
        return self._with("MatMul", other)

    def __neg__(self) -> Value:
        return self.graph.node("Neg", self)

    def __lt__(self, other: Value | Number) -> Value:
        return self._with("Less", other, BOOL)

    def __le__(self, other: Value | Number) -> Value:
        return self._with("LessOrEqual", other, BOOL)

    def __gt__(self, other: Value | Number) -> Value:
        return self._with("Greater", other, BOOL)

    def __ge__(self, other: Value | Number) -> Value:
        return self._with("GreaterOrEqual", other, BOOL)

    def equals(self, other: Value | Number) -> Value:
        """Where the two are equal."""
        return self._with("Equal", other, BOOL)

    def __and__(self, other: Value | Number) -> Value:
        return self._with("And" if self.dtype == BOOL else "BitwiseAnd", other)

    def __or__(self, other: Value | Number) -> Value:
        return self._with("Or" if self.dtype == BOOL else "BitwiseOr", other)

    def __invert__(self) -> Value:
        return self.graph.node("Not", self)

    def to(self, dtype: int) -> Value:
        """In another element type."""
        return self if dtype == self.dtype else self.graph.node("Cast", self, dtype=dtype, to=dtype)

    def abs(self) -> Value:
        """Magnitudes."""
        return self.graph.node("Abs", self)

    def digits(self) -> Value:
        """float32 digits in [-128, 127] as the left-hand side of a product: in `Graph.left`."""
        if self.graph.left == U8:
            return (self + float(_UNSIGNED_ZERO)).to(U8)
        return self.to(I8)

    def round(self) -> Value:
        """The nearest whole numbers, ties to even."""
        return self.graph.node("Round", self)

    def floor(self) -> Value:
        """The next whole numbers below."""
        return self.graph.node("Floor", self)

    def sqrt(self) -> Value:
        """Square roots."""
        return self.graph.node("Sqrt", self)

    def exp(self) -> Value:
        """Exponentials, as the runtime has them."""
        return self.graph.node("Exp", self)

    def isnan(self) -> Value:
        """Where there is no number."""
        return self.graph.node("IsNaN", self, dtype=BOOL)

    def clip(self, low: Number, high: Number) -> Value:
        """Cut off below `low` and above `high`."""
        limits = (self.graph.operand(limit, self.dtype) for limit in (low, high))
        return self.graph.node("Clip", self, *limits)

    def softmax(self) -> Value:
        """Over the last axis."""
        return self.graph.node("Softmax", self, axis=-1)

    def _reduced(self, op: str, axes: tuple[int, ...], keep: bool) -> Value:
        return self.graph.node(op, self, self.graph.integers(*axes), keepdims=int(keep))

    def sum(self, *axes: int, keep: bool = False) -> Value:
        """Sums over axes; 0 over none."""
        return self._reduced("ReduceSum", axes, keep)

    def max(self, *axes: int, keep: bool = False) -> Value:
        """Largest over axes."""
        return self._reduced("ReduceMax", axes, keep)

    def mean(self, *axes: int, keep: bool = False) -> Value:
        """Means over axes."""
        return self._reduced("ReduceMean", axes, keep)

    def any(self, *axes: int, keep: bool = False) -> Value:
        """Whether one over the axes is true; not where there is none."""
        return self.to(I32).sum(*axes, keep=keep) > 0

    def running_sum(self, axis: int) -> Value:
        """Sums of all elements up to each."""
        return self.graph.node("CumSum", self, self.graph.scalar(axis))

    def unsqueeze(self, *axes: int) -> Value:
        """With new axes of size 1."""
        return self.graph.node("Unsqueeze", self, self.graph.integers(*axes))

    def squeeze(self, *axes: int) -> Value:
        """Without axes of size 1."""
        return self.graph.node("Squeeze", self, self.graph.integers(*axes))

    def transpose(self, *order: int) -> Value:
        """With permuted axes."""
        return self.graph.node("Transpose", self, perm=order)

    def reshape(self, *sizes: int) -> Value:
        """In another shape; 0 keeps a size, -1 is what is left."""
        return self.graph.node("Reshape", self, self.graph.integers(*sizes))

    def like(self, other: Value) -> Value:
        """In the shape of another value."""
        return self.graph.node("Reshape", self, self.graph.node("Shape", other, dtype=I64))

    def size(self, axis: int) -> Value:
        """One dimension: int64 [1]."""
        end = {} if axis == -1 else {"end": axis + 1}
        return self.graph.node("Shape", self, dtype=I64, start=axis, **end)

    def split(self, parts: int, axis: int = -1) -> tuple[Value, ...]:
        """Equal parts along an axis."""
        return self.graph.nodes(
            "Split", self, dtypes=(self.dtype,) * parts, axis=axis, num_outputs=parts
        )

    def slice(self, start: Value | int, stop: Value | int, axis: int, step: int = 1) -> Value:
        """Elements start, start + step, ... before stop along an axis; bounds int64 [1]."""
        bounds = (self.graph.integers(b) if isinstance(b, int) else b for b in (start, stop))
        axes, steps = self.graph.integers(axis), self.graph.integers(step)
        return self.graph.node("Slice", self, *bounds, axes, steps)

    def gather(self, indices: Value | int, axis: int = 0) -> Value:
        """Parts along an axis, by number; one number leaves the axis out."""
        return self.graph.node("Gather", self, self.graph.operand(indices, I64), axis=axis)

    def gather_elements(self, indices: Value, axis: int) -> Value:
        """An element of its own for every index.

        The axis is counted from the front: the standard's evaluator has it wrong from the end.
        """
        return self.graph.node("GatherElements", self, indices, axis=axis)

    def top(self, k: Value, *, largest: bool = True) -> tuple[Value, Value]:
        """(values, int64 indices) of the k first in order; among equals the lower index is first.

        The standard promises that tie-break since version 11 of the operator.
        """
        values, indices = self.graph.nodes(
            "TopK", self, k, dtypes=(self.dtype, I64), axis=-1, largest=int(largest), sorted=1
        )
        return values, indices


def where(condition: Value, yes: Value | Number, no: Value | Number) -> Value:
    """`yes` where the condition holds, else `no`; one of them is a value."""
    graph = condition.graph
    (dtype,) = {part.dtype for part in (yes, no) if isinstance(part, Value)}
    return graph.node("Where", condition, graph.operand(yes, dtype), graph.operand(no, dtype))


def concat(*parts: Value, axis: int) -> Value:
    """Values one after the other along an axis."""
    return parts[0].graph.node("Concat", *parts, axis=axis)


def least(*values: Value) -> Value:
    """The smallest of several values, elementwise."""
    return values[0].graph.node("Min", *values)


class Graph:
    """A graph under construction; nodes stand in the order in which they were made.

    Args:
        name: of the graph.
        outer: the graph around it, whose values it may use (the body of a loop).
        left: element type of the digits on the left of a product, int8 or uint8 with 128 as zero:
            the same sums, but runtimes differ in which one they multiply fast.
    """

    def __init__(self, name: str, outer: Graph | None = None, left: int = I8) -> None:
        self.name = name
        self.left: int = outer.left if outer else left
        self._root: Graph = outer._root if outer else self
        self._nodes: list[NodeProto] = []
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []
        self._constants: dict[tuple[int, tuple[int, ...], bytes], TensorProto] = {}
        self._stored: list[TensorProto] = []
        self._made = 0

    def input(self, name: str, dtype: int, shape: Sequence[str | int]) -> Value:
        """A new input; names in `shape` are dimensions that vary."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return Value(self, name, dtype)

    def output(self, name: str, value: Value, shape: Sequence[str | int]) -> None:
        """Make a value an output."""
        self._nodes.append(helper.make_node("Identity", [value.name], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, value.dtype, list(shape)))

    def constant(self, array: npt.NDArray[np.generic]) -> Value:
        """A constant tensor; equal ones are stored once."""
        dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
        key = (dtype, array.shape, array.tobytes())
        known = self._root._constants
        if key not in known:
            known[key] = numpy_helper.from_array(array, f"c{len(known)}")
        return Value(self, known[key].name, dtype)

    def stored(self, tensor: TensorProto) -> Value:
        """A constant tensor of its own name, such as one whose bytes lie in another file."""
        self._root._stored.append(tensor)
        return Value(self, tensor.name, tensor.data_type)

    def operand(self, value: Value | Number, dtype: int) -> Value:
        """A value as it is, a number as a constant of an element type."""
        if isinstance(value, Value):
            return value
        return self.constant(np.asarray(value, _NUMPY[dtype]))

    def scalar(self, number: Number, dtype: int = I64) -> Value:
        """A constant without dimensions."""
        return self.operand(number, dtype)

    def integers(self, *numbers: int) -> Value:
        """A constant list: int64 [n]."""
        return self.constant(np.asarray(numbers, np.int64))

    def positions(self, count: Value) -> Value:
        """0, 1, ... below a count (int64 without dimensions)."""
        return self.node("Range", self.scalar(0), count, self.scalar(1))

    def nodes(
        self, op: str, *operands: Value, dtypes: Sequence[int], **attributes: Any
    ) -> tuple[Value, ...]:
        """A node with several results of given element types."""
        root = self._root
        names = [f"v{root._made + place}" for place in range(len(dtypes))]
        root._made += len(names)
        inputs = [value.name for value in operands]
        name = f"{self.name}/{names[0]}"
        self._nodes.append(helper.make_node(op, inputs, names, name, **attributes))
        return tuple(Value(self, n, dtype) for n, dtype in zip(names, dtypes, strict=True))

    def node(self, op: str, *operands: Value, dtype: int | None = None, **attributes: Any) -> Value:
        """A node with one result, by default of its first operand's element type.

        A condition gives its type to nothing: the result of a `Where` has that of its branches.
        """
        typed = operands[1] if op == "Where" else operands[0]
        made = typed.dtype if dtype is None else dtype
        return self.nodes(op, *operands, dtypes=(made,), **attributes)[0]

    def use(self, value: Value) -> Value:
        """A value of the graph around this one, as an operand of nodes of this one."""
        return Value(self, value.name, value.dtype)

    def zeros(self, dtype: int, *sizes: Value) -> Value:
        """Zeros of a shape given by its int64 [1] sizes."""
        zero = numpy_helper.from_array(np.zeros(1, _NUMPY[dtype]))
        return self.node("ConstantOfShape", concat(*sizes, axis=0), dtype=dtype, value=zero)

    def loop(
        self,
        count: Value,
        start: Value,
        shape: Sequence[str | int],
        step: Callable[[Value, Value], Value],
    ) -> Value:
        """`start`, changed by `step` for 0, 1, ... below a count.

        Args:
            count: int64 without dimensions.
            start: what the first step changes.
            shape: of what is carried from step to step.
            step: makes the body's nodes from the number of the step and what is carried.
        """
        body = Graph("body", outer=self)
        number = body.input("number", I64, ())
        body.input("go", BOOL, ())
        before = body.input("before", start.dtype, shape)
        after = step(number, before)
        body.output("go_on", body.scalar(True, BOOL), ())
        body.output("after", after, shape)
        go = self.scalar(True, BOOL)
        return self.node("Loop", count, go, start, dtype=start.dtype, body=body._proto(()))

    def _proto(self, constants: Sequence[TensorProto]) -> GraphProto:
        return helper.make_graph(
            self._nodes, self.name, self._inputs, self._outputs, initializer=constants
        )

    def model(self, opset: int = OPSET, *, check: bool = True) -> ModelProto:
        """The finished model, checked, with inferred shapes in agreement.

        Args:
            opset: version of the standard.
            check: not for one whose tensors lie in files: it is checked where it is written.

        Raises:
            onnx.checker.ValidationError, onnx.shape_inference.InferenceError: the builder is wrong.
        """
        model = helper.make_model(
            self._proto([*self._constants.values(), *self._stored]),
            opset_imports=[helper.make_opsetid("", opset)],
            producer_name="glm5-hal",
            ir_version=IR_VERSION,
        )
        if check:
            checker.check_model(model, full_check=True)
        return model


class Inlined(Graph):
    """A graph whose nodes go into another one, and whose inputs are values of that.

    Args:
        host: the graph around it.
        name: of its nodes.
        given: value of each input.
    """

    def __init__(self, host: Graph, name: str, given: Mapping[str, Value]) -> None:
        super().__init__(name, outer=host)
        self._nodes = host._nodes
        self._given = given

    def input(self, name: str, dtype: int, shape: Sequence[str | int]) -> Value:
        """The value that was given under a name."""
        value = self._given[name]
        if value.dtype != dtype:
            raise TypeError(f"{self.name}: {name} has element type {value.dtype}, expected {dtype}")
        return self.use(value)
