"""The graphs themselves: standard, checked, alone in agreement with the definitions."""

import itertools
import re
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from onnx_calls import (
    OPS_OF,
    ReferenceEvaluator,
    bits,
    differences,
    infer_shapes,
    runtime,
    small_calls,
    with_handles,
)
from torch import Tensor

from glm5_hal import Numerics
from glm5_hal.backends.onnxruntime import engine
from glm5_hal.conformance.call import Call, answer
from glm5_hal.conformance.reference_backend import reference_runtime
from glm5_hal.kernels import onnx as graphs
from glm5_hal.kernels.onnx import builder, exact
from glm5_hal.kernels.onnx.builder import ModelProto

CURRENT = 26
"""The newest version of the standard that the tested runtime supports."""
DEFINITION = reference_runtime(Numerics.EXACT)
CASES = [(op, numerics) for numerics in Numerics for op in OPS_OF[numerics]]


def model_and_inputs(call: Call, numerics: Numerics) -> tuple[ModelProto, dict[str, Tensor]]:
    """The graph of a call with plain weights, and its inputs."""
    arguments = with_handles(call)
    model = graphs.graph_of(graphs.signature_of(call.op, numerics, arguments))
    return model, graphs.inputs_of(call.op, arguments)


def session(model: ModelProto, level: str = "off") -> engine.Session:
    options = engine.session_options(Numerics.EXACT, level)
    return engine.Session(model, options, "CPUExecutionProvider")


def run(call: Call, level: str = "off") -> tuple[Tensor, ...]:
    """An exact graph on the runtime, weights fixed inside it."""
    model, inputs = model_and_inputs(call, Numerics.EXACT)
    sizes = {"P": call.arguments["ids"].numel()} if call.op == "moe_dispatch" else {}
    return session(model, level).run(inputs, sizes)


def smallest(op: str, dtype: str = "fp32") -> Call:
    """The first call of an op that asks for something."""
    return next(c for c in small_calls(op, dtypes=(dtype,)) if all(p.numel() for p in _parts(c)))


def _parts(call: Call) -> tuple[Tensor, ...]:
    return tuple(value for value in call.arguments.values() if isinstance(value, Tensor))


@pytest.mark.parametrize(("op", "numerics"), CASES)
def test_graphs_are_standard_and_dynamic(op: str, numerics: Numerics) -> None:
    call = smallest(op, "bf16")
    model, _ = model_and_inputs(call, numerics)
    assert not model.functions
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    for opset in (graphs.OPSET, CURRENT):
        made = graphs.graph_of(graphs.signature_of(op, numerics, with_handles(call)), opset)
        infer_shapes(made, check_type=True, strict_mode=True, data_prop=True)
    sizes = {dim.dim_param for i in model.graph.input for dim in i.type.tensor_type.shape.dim}
    assert "" not in sizes, "an input has a size of its own"


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("op", OPS_OF[Numerics.EXACT])
def test_no_level_of_optimisation_changes_a_byte(op: str, dtype: str) -> None:
    call = smallest(op, dtype)
    wanted = answer(DEFINITION, call)
    for level in engine.LEVELS:
        assert not differences(wanted, run(call, level)), level


def test_what_the_runtime_may_rewrite_is_not_what_the_profile_says() -> None:
    """Why the graphs keep a choice between a reciprocal and a product: this one is rewritten."""
    graph = builder.Graph("product")
    a, b = (graph.input(name, builder.F32, ("N",)) for name in "ab")
    graph.output("y", a * (1.0 / b), ("N",))
    rng = np.random.default_rng(0)
    inputs = {name: torch.from_numpy(rng.random(1000, np.float32)) for name in "ab"}
    (y,) = session(graph.model()).run(inputs)
    assert torch.equal(y, inputs["a"] * (1.0 / inputs["b"]))


@pytest.mark.parametrize("op", OPS_OF[Numerics.EXACT])
def test_the_standards_own_evaluator_gives_the_bytes(op: str) -> None:
    for dtype in ("fp32", "bf16"):
        call = smallest(op, dtype)
        arguments = with_handles(call)
        model = graphs.graph_of(graphs.signature_of(op, Numerics.EXACT, arguments))
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(model).run(None, graphs.feeds(op, arguments))
        assert not differences(answer(DEFINITION, call), tuple(map(_tensor, found)))


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    array = np.ascontiguousarray(array)
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


# --- parts ---


def evaluate(make: Any, *arrays: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """A function of values on the runtime and on the evaluator: [the one, the other]."""
    graph = builder.Graph("part")
    tensors = [torch.from_numpy(array) for array in arrays]
    values = [
        graph.input(f"x{place}", builder.TYPES[tensor.dtype], ("N",))
        for place, tensor in enumerate(tensors)
    ]
    graph.output("y", make(*values), ("N",))
    model = graph.model()
    names = [value.name for value in values]
    (ours,) = session(model).run(dict(zip(names, tensors, strict=True)))
    with np.errstate(all="ignore"):
        (theirs,) = ReferenceEvaluator(model).run(None, dict(zip(names, arrays, strict=True)))
    return [_bytes(ours), _bytes(_tensor(theirs))]


def _bytes(x: Tensor) -> npt.NDArray[Any]:
    return bits(x).numpy()


def nearest(whole: int) -> float:
    """An integer as the nearest float32, ties to even, by integer arithmetic."""
    size = abs(whole)
    places = max(0, size.bit_length() - 24)
    return float(np.copysign(round(Fraction(size, 1 << places)) * 2.0**places, whole))


def test_sums_are_rounded_to_nearest_ties_to_even() -> None:
    edges = [
        sign * ((base << places) + (half << places) // 2 + off)
        for places in (1, 2, 15, 22, 23, 24, 25, 30, 37)
        for base, half in itertools.product((1 << 23, (1 << 23) + 1, (1 << 24) - 1), (0, 1))
        for off in (-1, 0, 1)
        for sign in (1, -1)
    ]
    rng = np.random.default_rng(1)
    wide = rng.integers(-(2**61), 2**61, 4000)
    drawn = [int(n) >> int(s) for n, s in zip(wide, rng.integers(0, 60, 4000), strict=True)]
    sums = np.array([0, *edges, *drawn], np.int64)
    wanted = _bytes(torch.tensor([nearest(int(s)) for s in sums], dtype=torch.float32) + 0.0)
    for found in evaluate(exact.rounded, sums):
        assert np.array_equal(found, wanted)


def test_every_upper_half_is_rounded_to_bfloat16_as_the_definition_does() -> None:
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    for lower in (0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        x = (upper | np.uint32(lower)).view(np.float32)
        wanted = _bytes(_written(torch.from_numpy(x)))
        for found in evaluate(lambda value: exact.write(value, builder.BF16), x):
            assert np.array_equal(found, wanted)


def _written(x: Tensor) -> Tensor:
    from glm5_hal.exact import write

    return write(x, torch.bfloat16)


@pytest.mark.parametrize("digits", [2, 3])
def test_digits_are_those_of_the_definition_at_every_exponent(digits: int) -> None:
    from glm5_hal.exact import fixed

    rng = np.random.default_rng(2)
    sizes = 2.0 ** np.arange(-150, 128)[:, None]
    rows = torch.from_numpy((rng.standard_normal((278, 9)) * sizes).astype(np.float32))
    rows[::7, 0] = torch.from_numpy((sizes[::7, 0] * (2 - 2.0**-23)).astype(np.float32))
    rows[5, 3], rows[9, 4] = torch.nan, -torch.inf
    graph = builder.Graph("fixed")
    found = exact.fixed(graph.input("x", builder.F32, ("T", "K")), digits)
    graph.output("cut", found.cut(), (digits, "T", "K"))
    graph.output("exponent", found.exponent, ("T",))
    graph.output("finite", found.finite, ("T",))
    cut, exponent, finite = session(graph.model()).run({"x": rows})
    wanted = fixed(rows, digits)
    weights = (256 ** torch.arange(digits)).reshape(-1, 1, 1)
    assert torch.equal((cut.long() * weights).sum(0), wanted.integers.long())
    assert int(cut[-1].abs().max()) <= 64
    assert torch.equal(exponent, wanted.exponent)
    assert torch.equal(finite, wanted.finite)


def test_quotients_and_roots_are_the_nearest() -> None:
    rng = np.random.default_rng(3)
    a, b = (np.exp2(rng.uniform(-40, 40, 20011)).astype(np.float32) for _ in range(2))
    for found in evaluate(lambda x, y: x / y, a, b):
        assert np.array_equal(found, (a / b).view(np.int32))
    root = np.sqrt(a.astype(np.float64)).astype(np.float32)
    for found in evaluate(builder.Value.sqrt, a):
        assert np.array_equal(found, root.view(np.int32))


def test_whole_numbers_are_ties_to_even() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 8388607.5, 8388606.5], np.float32)
    for found in evaluate(builder.Value.round, x):
        assert np.array_equal(found, np.rint(x).view(np.int32))


def test_constants_are_stored_once_and_names_are_the_contracts() -> None:
    call = smallest("rms_norm")
    model, inputs = model_and_inputs(call, Numerics.EXACT)
    stored = [(t.data_type, tuple(t.dims), t.raw_data) for t in model.graph.initializer]
    assert len(stored) == len(set(stored))
    assert [i.name for i in model.graph.input] == ["x", "w", "residual"] == list(_in_order(inputs))
    assert [o.name for o in model.graph.output] == ["y0", "y1"]
    assert re.fullmatch("glm5-hal", model.producer_name)


def _in_order(inputs: dict[str, Tensor]) -> list[str]:
    return sorted(inputs, key=("x", "w", "residual").index)


def test_the_backends_prepared_weights_are_those_of_the_graph() -> None:
    call = smallest("linear", "bf16")
    assert not differences(answer(runtime(Numerics.EXACT), call), run(call))
