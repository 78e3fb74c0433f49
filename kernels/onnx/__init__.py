"""Every op as an ONNX graph of standard operators, in both profiles.

`graph_of` builds the graph of a call's signature, `feeds` what goes into it; neither needs a
runtime. Weights, caches and page tables are inputs, so one graph serves every layer; what is
written into it stands in the `Signature`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import torch
from onnx import ModelProto

from glm5_hal.exact import digits_of
from glm5_hal.kernels.onnx import (  # noqa: F401 - fill BUILDERS
    attention,
    elementwise,
    linear,
    moe,
    muon,
    sampling,
    select,
)
from glm5_hal.kernels.onnx.builder import (
    F32,
    I8,
    I64,
    TYPES,
    U8,
    Graph,
)
from glm5_hal.kernels.onnx.entry import BUILDERS, Call, result_shapes
from glm5_hal.kernels.onnx.exact import Columns, fixed
from glm5_hal.kernels.onnx.signature import (
    CUT,
    Digits,
    Signature,
    Wide,
    inputs_of,
    signature_of,
)
from glm5_hal.kernels.onnx.standard import OPSET, opset_problem
from glm5_hal.levels import Numerics

__all__ = [
    "BUILDERS",
    "CUT",
    "I8",
    "OPSET",
    "TYPES",
    "U8",
    "Digits",
    "Signature",
    "Wide",
    "feeds",
    "graph_of",
    "inputs_of",
    "opset_problem",
    "product_graph",
    "signature_of",
    "weight_graph",
]


def graph_of(signature: Signature, opset: int = OPSET, left: int = I8) -> ModelProto:
    """The checked model of an op; outputs are the op's results in order, `y0`, `y1`, ...

    Args:
        signature: of the call.
        opset: version of the standard.
        left: element type of digits on the left of a product, as in `Graph`.
    """
    graph = Graph(signature.op, left=left)
    call = Call(signature, graph)
    results = BUILDERS[signature.op](call)
    for place, (value, shape) in enumerate(zip(results, result_shapes(signature), strict=True)):
        graph.output(f"y{place}", value, shape)
    return graph.model(opset)


def weight_graph(
    numerics: Numerics, dtype: torch.dtype, rank: int, *, shard: bool = False
) -> ModelProto:
    """What makes a weight [..., N, K] of `rank` dimensions ready: input `w`, outputs as below.

    Fast: `tensor` [..., K, N] float32. Exact: `digits`, `exponent` and `finite` as in `Digits`;
    for a shard the exponents of the whole rows are the input `exponent`, and only `digits` is
    made.
    """
    *batch, n, k = [f"B{axis}" for axis in range(rank - 2)] + ["N", "K"]
    graph = Graph("weight")
    w = graph.input("w", TYPES[dtype], (*batch, n, k))
    if numerics is Numerics.FAST:
        swapped = (*range(rank - 2), rank - 1, rank - 2)
        graph.output("tensor", w.to(F32).transpose(*swapped), (*batch, k, n))
        return graph.model()
    exponent = graph.input("exponent", I64, (n,)) if shard else None
    columns = Columns.of(fixed(w, digits_of(dtype), exponent), rank)
    graph.output("digits", columns.digits, (columns.count, *batch, k, n))
    if not shard:
        graph.output("exponent", columns.exponent, (*batch, n))
        graph.output("finite", columns.finite, (*batch, n))
    return graph.model()


def product_graph(left: int) -> ModelProto:
    """One product of digits, `x` [B, M, K] and `y` [B, K, N] int8: to see whether it is exact."""
    graph = Graph("product", left=left)
    x, y = graph.input("x", I8, ("B", "M", "K")), graph.input("y", I8, ("B", "K", "N"))
    graph.output("sums", x.to(F32).digits() @ y, ("B", "M", "N"))
    return graph.model()


def feeds(op: str, arguments: Mapping[str, Any]) -> dict[str, npt.NDArray[np.generic]]:
    """The inputs of a call's graph as arrays; bfloat16 as ml_dtypes has it."""
    return {name: _array(tensor) for name, tensor in inputs_of(op, arguments).items()}


def _array(tensor: torch.Tensor) -> npt.NDArray[np.generic]:
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
