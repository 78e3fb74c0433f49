"""Writing code down as a graph: composites, and what may stand between op calls."""

import pytest
import torch
from onnx_calls import COMPOSITES, differences, small_calls, with_handles
from torch import Tensor

from glm5_hal import Numerics, WeightRole
from glm5_hal.backends.onnxruntime import engine
from glm5_hal.conformance.call import answer
from glm5_hal.conformance.reference_backend import reference_runtime
from glm5_hal.kernels import onnx as graphs
from glm5_hal.kernels.onnx.builder import F32, Graph
from glm5_hal.kernels.onnx.composite import graph_of_composite
from glm5_hal.kernels.onnx.tracing import Recording, Traced, TraceError, Tracer

OPTIONS = engine.session_options(Numerics.EXACT)


@pytest.mark.parametrize("op", COMPOSITES)
def test_a_composite_as_one_graph_gives_the_bytes_of_its_definition(op: str) -> None:
    for call in small_calls(op, "normal", "nan", "zeros"):
        arguments = with_handles(call)
        model = graph_of_composite(op, Numerics.EXACT, arguments)
        session = engine.Session(model, OPTIONS, "CPUExecutionProvider")
        found = session.run(graphs.inputs_of(op, arguments))
        assert not differences(answer(reference_runtime(Numerics.EXACT), call), found)


def shuffled(x: Tensor) -> Tensor:
    """Everything that is followed, on [T, 12]."""
    heads = x.unflatten(1, (3, -1))  # [T, 3, 4]
    turned = torch.cat((heads[..., 2:], heads[..., :2]), dim=-1)
    one = turned[:, None, 1:].squeeze(1)[:, 0].unsqueeze(2).contiguous()  # [T, 4, 1]
    return torch.cat((one.flatten(1), turned.flatten(1)[:, 1:7:2]), dim=1)


def test_views_are_followed_for_any_number_of_tokens() -> None:
    graph = Graph("views")
    x = Traced.of(graph.input("x", F32, ("T", 12)), (2, 12), torch.float32)
    made = shuffled(x)
    assert isinstance(made, Traced)
    assert made.shape == (2, 7)
    graph.output("y", made.value, ("T", 7))
    session = engine.Session(graph.model(), OPTIONS, "CPUExecutionProvider")
    for tokens in (1, 2, 9):
        values = torch.arange(12.0 * tokens).reshape(tokens, 12)
        (found,) = session.run({"x": values})
        assert torch.equal(found, shuffled(values))


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (lambda x: x + x, "add"),
        (lambda x: x.mT, "between op calls is not followed"),
        (lambda x: x.new_zeros(3), "new_zeros between op calls is not followed; what is: "),
        (lambda x: x.flatten(0, 0), "flatten to dimension 0 is not followed"),
        (lambda x: x[torch.tensor([0])], "an index of type Tensor"),
    ],
)
def test_what_is_not_followed_is_named(step: object, said: str) -> None:
    x = Traced.of(Graph("views").input("x", F32, ("T", 12)), (2, 12), torch.float32)
    with pytest.raises(TraceError, match=said):
        step(x)  # type: ignore[operator]


def test_a_tensor_with_numbers_is_no_part_of_a_graph() -> None:
    tracer = Tracer(Recording(Graph("mixed"), Numerics.EXACT))
    with pytest.raises(TraceError, match="gate_up is a tensor with numbers"):
        tracer.swiglu(torch.ones(2, 4))
    with pytest.raises(TraceError, match="no value of the graph"):
        tracer.swiglu(Traced.of(None, (2, 4), torch.float32))
    weight = tracer.prepare_weight(WeightRole.VECTOR, torch.ones(4))
    assert weight.tensor.is_meta
