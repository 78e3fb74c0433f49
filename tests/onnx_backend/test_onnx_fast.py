"""The fast profile on ONNX Runtime: within the suite's bounds, order and bytes where promised."""

import pytest
import torch
from onnx_calls import COMPOSITES, OPS_OF, differences, runtime, small_calls

from glm5_hal import Numerics
from glm5_hal.conformance import bounds
from glm5_hal.conformance.call import Call, answer
from glm5_hal.conformance.reference_backend import reference_runtime

FAST = runtime(Numerics.FAST)
MOVED = ("cache_read", "cache_write", "dsa_select", "embedding", "moe_dispatch", "sample", "topk")
"""Ops whose results are bytes or numbers of the input."""
BOUNDED = sorted({*OPS_OF[Numerics.FAST], *COMPOSITES} - {*MOVED, "moe_route"})


@pytest.mark.parametrize("op", BOUNDED)
def test_results_are_within_the_bound(op: str) -> None:
    for call in small_calls(op, "normal", "outlier60", "zeros"):
        if all(part.numel() for part in call.reference()):
            bounds.judge(call, *bounds.of(call), answer(FAST, call), decoys=False)


@pytest.mark.parametrize("op", MOVED)
def test_moves_and_choices_are_those_of_the_reference(op: str) -> None:
    for call in small_calls(op, "normal", "equal", "zeros"):
        wanted = answer(reference_runtime(Numerics.FAST), call)
        assert not differences(wanted, answer(FAST, call))


def test_routing_chooses_as_the_reference() -> None:
    for call in small_calls("moe_route"):
        ids, weights = answer(FAST, call)
        wanted, exact = answer(reference_runtime(Numerics.FAST), call)
        assert torch.equal(ids, wanted)
        assert torch.allclose(weights, exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("op", ["linear", "rms_norm", "swiglu", "latent_attention"])
def test_nan_stays_in_its_token(op: str) -> None:
    call = small_calls(op)[0]
    name = call.per_token()[0]
    poisoned = call.arguments[name].clone()
    poisoned[1] = torch.nan
    clean, dirty = (
        answer(FAST, each)[0] for each in (call, call.with_arguments(**{name: poisoned}))
    )
    others = torch.arange(clean.shape[0]) != 1
    assert dirty[1].isnan().all()
    assert torch.equal(clean[others], dirty[others])


def test_edges_that_the_requirements_name() -> None:
    rows = torch.tensor([[-torch.inf, 1.0], [-1e30, 1.0], [100.0, 2.0]])
    (y,) = answer(FAST, Call("swiglu", {"gate_up": rows}))
    assert y[0].isnan().all()
    assert y[1:].tolist() == [[0.0], [200.0]]
    (zeros,) = answer(FAST, Call("muon_orthogonalize", {"g": torch.zeros(1, 3, 4), "steps": 5}))
    assert not zeros.any()
