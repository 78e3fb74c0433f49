"""Who decides which fused functions are taken, and what the plan and the claims say of it."""

import os

import on_host
import pytest
import torch
import torch_npu_functions
from real_calls import OPS_CALLED

from glm5_hal import BackendUnavailable, Level, Numerics, SelectionError
from glm5_hal.backends.ascend.backend import AscendBackend
from glm5_hal.backends.ascend.fused import FUSED, VARIABLE
from glm5_hal.backends.ascend.records import table
from glm5_hal.backends.torch_triton.backend import CLAIMS
from glm5_hal.backends.torch_triton.fused import FusedBackend
from glm5_hal.conformance.call import answer
from glm5_hal.conformance.compare import first_difference
from glm5_hal.conformance.reference_backend import reference_runtime
from glm5_hal.conformance.shapes import Shape
from glm5_hal.conformance.subjects import Variant
from glm5_hal.plan import Plan

RECORDS = table().records
DEFAULT = {"moe_dispatch", "rms_norm"}
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def _fused(plan: Plan) -> set[str]:
    return {op for op, one in plan.ops.items() if "glm5_hal.backends.ascend." in one.where}


def test_by_default_only_what_is_established_is_taken() -> None:
    assert {fused.op for fused in FUSED if not fused.open} == DEFAULT
    runtime = on_host.runtime(None)
    assert _fused(runtime.plan) == DEFAULT
    where = "glm5_hal.backends.ascend.fused_rows.rms_norm"
    assert runtime.plan.ops["rms_norm"].where == where
    assert runtime.backend.capabilities.claims == CLAIMS


def test_the_plan_names_the_portable_kernels_where_nothing_is_taken() -> None:
    plan = on_host.runtime("none").plan
    assert _fused(plan) == set()
    assert plan.ops["swiglu"].where == "glm5_hal.backends.torch_triton.fast.FastOps.swiglu"
    assert plan.hash != on_host.runtime(None).plan.hash


def test_all_are_taken_where_that_is_asked_for_and_nothing_fast_is_claimed() -> None:
    runtime = on_host.runtime("all")
    assert _fused(runtime.plan) == {*RECORDS, "cache_read", "cache_write"}
    claims = runtime.backend.capabilities.claims
    assert claims[Numerics.FAST] == frozenset()
    assert claims[Numerics.EXACT] == CLAIMS[Numerics.EXACT]


def test_ops_are_named_by_comma() -> None:
    runtime = on_host.runtime("rms_norm,swiglu")
    assert _fused(runtime.plan) == {"rms_norm", "swiglu"}
    assert runtime.backend.capabilities.claims[Numerics.FAST] == {Level.RUN_TO_RUN}
    cache = runtime.backend.allocate_cache(2, 16, 576, torch.bfloat16)
    assert isinstance(cache.data, torch.Tensor)  # in one part: attention is the portable one


@pytest.mark.parametrize("value", ["yes", "rms_norm,linear", "all,none", ","])
@pytest.mark.parametrize("numerics", Numerics)
def test_other_values_are_errors(value: str, numerics: Numerics) -> None:
    with pytest.raises(SelectionError, match=rf"{VARIABLE.name}={value}: .*is no fused op"):
        on_host.runtime(value, numerics)


def test_a_function_that_is_not_there_cannot_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "npu", object())
    backend = on_host.chip("Ascend910B1")  # whose classes are not made yet
    assert _fused(on_host.runtime(None, backend=backend).plan) == set()
    with pytest.raises(BackendUnavailable, match="asks for swiglu: torch-npu lacks what is called"):
        on_host.runtime("swiglu", backend=backend)


def test_the_backend_declares_its_variable() -> None:
    assert AscendBackend.variables == (VARIABLE,)


def test_a_class_of_a_profile_stays_what_it_is() -> None:
    taken = type(on_host.runtime("all").backend)
    assert VARIABLE.name not in os.environ
    assert taken.in_profile(Numerics.FAST) is taken


def test_the_exact_profile_calls_no_fused_function() -> None:
    exact = on_host.runtime("all", Numerics.EXACT)
    assert _fused(exact.plan) == set()
    assert isinstance(exact.backend, FusedBackend)
    assert exact.backend._taken == ()
    torch_npu_functions.CALLS.clear()
    shapes = {
        "rms_norm": {"T": 3, "D": 2064},
        "rope": {"T": 3, "H": 2, "R": 8, "P": 9},
        "swiglu": {"T": 3, "I": 8},
        "moe_route": {"T": 3, "E": 16, "k": 4, "n_group": 1, "topk_group": 1},
        "moe_dispatch": {"T": 3, "D": 8, "E": 16, "k": 4},
        "grouped_linear": {"P": 9, "E": 4, "K": 16, "N": 8},
        "moe_combine": {"T": 3, "D": 8, "k": 4},
        "dsa_select": {"T": 3, "H": 2, "D": 128, "S": 20, "k": 9, "page": 16},
        "latent_attention": {"T": 3, "H": 1, "C": 512, "R": 64, "S": 20, "k": 9, "page": 16},
    }
    assert set(shapes) == set(OPS_CALLED) == set(RECORDS)
    for op, sizes in shapes.items():
        for dtype in ("bf16", "fp32"):
            call = Variant(op, Shape(sizes), dtype=dtype).call()
            wanted = answer(reference_runtime(Numerics.EXACT), call)
            assert first_difference(wanted, answer(exact, call), any_nan=False) is None
    assert torch_npu_functions.CALLS == []
