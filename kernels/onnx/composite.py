"""Composite ops as one graph: their default composition, written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from onnx import ModelProto
from torch import Tensor

from glm5_hal.contract import OPS
from glm5_hal.handles import Cache, PagedContext, Weight
from glm5_hal.kernels.onnx.builder import TYPES, Graph, Value
from glm5_hal.kernels.onnx.entry import Shape, result_shapes
from glm5_hal.kernels.onnx.signature import inputs_of, signature_of
from glm5_hal.kernels.onnx.standard import OPSET
from glm5_hal.kernels.onnx.tracing import Recording, Traced, Tracer
from glm5_hal.levels import Numerics
from glm5_hal.plan import make_plan
from glm5_hal.runtime import Runtime

_CONTEXT: dict[str, Shape] = {
    "page_table": ("B", "P"),
    "sequence": ("T",),
    "lengths": ("T",),
    "max_length": (),
}


def graph_of_composite(
    op: str, numerics: Numerics, arguments: Mapping[str, Any], opset: int = OPSET
) -> ModelProto:
    """The checked model of a composite op; inputs are those of `inputs_of`, outputs `y0`, ...

    Args:
        op: name of the op.
        numerics: the profile.
        arguments: of a call, by name, as plain tensors and handles with plain tensors. What they
            hold is not looked at; their sizes are, where a graph is unrolled.
        opset: version of the standard.
    """
    graph = Graph(op)
    values = {
        name: graph.input(name, TYPES[tensor.dtype], _shape(op, name))
        for name, tensor in inputs_of(op, arguments).items()
    }
    tracer = Tracer(Recording(graph, numerics, values.get("max_length")))
    with Runtime(make_plan(Tracer, 0, numerics), tracer):
        made = OPS[op](**{name: _traced(values, name, v) for name, v in arguments.items()})
    results = made if isinstance(made, tuple) else (made,)
    shapes = result_shapes(signature_of(op, numerics, arguments))
    for place, (result, shape) in enumerate(zip(results, shapes, strict=True)):
        graph.output(f"y{place}", result.value, shape)
    return graph.model(opset)


def _shape(op: str, name: str) -> Shape:
    array = OPS[op].arguments.get(name)
    return _CONTEXT[name] if array is None else tuple(array.shape.split())


def _traced(values: Mapping[str, Value], name: str, value: Any) -> Any:
    """An argument with tensors of the graph in place of its own."""
    if isinstance(value, Tensor):
        return Traced.of(values.get(name), value.shape, value.dtype)
    if isinstance(value, Weight | Cache):
        return replace(value, data=Traced.of(values[name], value.tensor.shape, value.dtype))
    if isinstance(value, PagedContext):
        parts = ("page_table", "sequence", "lengths")
        return replace(
            value, **{part: _traced(values, part, getattr(value, part)) for part in parts}
        )
    return value
