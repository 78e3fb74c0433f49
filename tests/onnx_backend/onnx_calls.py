"""Calls of every op for the graphs' tests, and comparison to the byte."""

import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from wild_calls import Wild

from glm5_hal import Numerics, Runtime, open_runtime
from glm5_hal.conformance.call import Call, Loaded
from glm5_hal.conformance.reference_backend import reference_runtime
from glm5_hal.conformance.subjects import variants
from glm5_hal.contract import OPS, Kind

# the folder of these tests looks like a package of that name, so modules in it are asked for
_WHY = "needs glm5-hal[onnx]"
pytest.importorskip("onnxruntime", reason=_WHY)
ReferenceEvaluator = pytest.importorskip("onnx.reference", reason=_WHY).ReferenceEvaluator
infer_shapes = pytest.importorskip("onnx.shape_inference", reason=_WHY).infer_shapes

OPS_OF = {
    numerics: sorted(
        name
        for name, op in OPS.items()
        if op.profile is numerics or (op.kind is Kind.PRIMITIVE and op.profile is None)
    )
    for numerics in Numerics
}
"""Ops with a graph in each profile."""
COMPOSITES = ["dsa_select", "mla", "moe_experts"]
KINDS = ("normal", "outlier1000", "zeros", "equal", "subnormal", "neartie", "inf", "nan")
WILD = sorted(name for name in vars(Wild) if name in OPS)


@functools.cache
def runtime(numerics: Numerics) -> Runtime:
    """The backend in a profile, with the sessions of all tests."""
    return open_runtime("onnxruntime", numerics.value)


def small_calls(op: str, *kinds: str, dtypes: tuple[str, ...] = ("fp32", "bf16")) -> list[Call]:
    """Calls of all written shapes but a real model's."""
    found = variants(op, kinds=kinds or ("normal",), dtypes=dtypes)
    return [variant.call() for variant in found if not variant.shape.real]


def with_handles(call: Call) -> dict[str, Any]:
    """The arguments of a call as the definitions' backend keeps them: plain tensors."""
    return Loaded.on(reference_runtime(Numerics.EXACT), call).arguments


def bits(x: Tensor) -> Tensor:
    """The bytes as integers, so that -0 is not 0 and NaN equals itself."""
    return x.contiguous().view({1: torch.int8, 2: torch.int16, 4: torch.int32}[x.element_size()])


def differences(wanted: tuple[Tensor, ...], found: tuple[Tensor, ...]) -> list[str]:
    """Where results differ in dtype, shape or any byte, in words."""
    told = []
    for place, (want, got) in enumerate(zip(wanted, found, strict=True)):
        if (want.dtype, want.shape) != (got.dtype, got.shape):
            told.append(f"result {place}: {got.dtype} {got.shape}, not {want.dtype} {want.shape}")
        elif (wrong := bits(want) != bits(got)).any():
            told.append(f"result {place}: {got[wrong][:3]}, not {want[wrong][:3]}")
    return told
