"""Choosing ONNX Runtime: names, providers, what is missing, what is kept."""

import importlib.util
from typing import Any

import pytest
import torch
from onnx_calls import runtime, small_calls

from glm5_hal import BackendUnavailable, Numerics, Runtime, WeightRole, open_runtime
from glm5_hal.backends.onnxruntime.backend import OnnxRuntimeBackend
from glm5_hal.conformance.call import answer
from glm5_hal.errors import Unsupported

PROVIDER = "GLM5_HAL_ONNX_PROVIDER"


def test_the_alias_is_the_backend() -> None:
    plan = open_runtime("ort", "exact").plan
    assert plan.backend == "onnxruntime"
    assert plan.versions["provider"] == "CPUExecutionProvider"
    assert plan.versions["onnxruntime"] != "none"
    assert plan.ops["mla_expanded"].source == "unsupported"
    assert {plan.ops[name].source for name in ("mla", "dsa_select", "moe_experts")} == {"default"}


@pytest.mark.parametrize("name", ["CPU", "cpu", "CPUExecutionProvider", ""])
def test_a_provider_has_a_long_and_a_short_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROVIDER, name)
    assert open_runtime("onnxruntime").plan.versions["provider"] == "CPUExecutionProvider"


def test_a_provider_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROVIDER, "NoSuchChip")
    with pytest.raises(BackendUnavailable) as error:
        open_runtime("onnxruntime")
    for part in ("NoSuchChipExecutionProvider", "CPUExecutionProvider", PROVIDER):
        assert part in str(error.value)


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_its_remedy(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec

    def find_spec(wanted: str, package: str | None = None) -> Any:
        return None if wanted == name else real(wanted, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(BackendUnavailable, match=rf"{name} is not installed: pip install"):
        open_runtime("onnxruntime")


def test_products_that_saturate_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from glm5_hal.backends.onnxruntime import engine

    def saturated(*_: Any) -> tuple[torch.Tensor]:
        return (torch.full((3, 5, 2), 32767, dtype=torch.int32),)

    monkeypatch.setattr(engine.Session, "run", saturated)
    OnnxRuntimeBackend()
    with pytest.raises(BackendUnavailable, match="MatMulInteger of CPUExecutionProvider"):
        OnnxRuntimeBackend.in_profile(Numerics.EXACT)()


def test_one_session_serves_every_size() -> None:
    backend = runtime(Numerics.EXACT).backend
    answer(runtime(Numerics.EXACT), small_calls("swiglu")[0])
    sessions = len(backend._engine._sessions)  # type: ignore[attr-defined]
    for call in small_calls("swiglu", dtypes=("fp32",)):
        answer(runtime(Numerics.EXACT), call)
    assert len(backend._engine._sessions) == sessions  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cache_is_written_in_place(dtype: torch.dtype) -> None:
    backend = runtime(Numerics.EXACT).backend
    cache = backend.allocate_cache(3, 4, 5, dtype)
    cache.tensor.fill_(torch.nan)
    address = cache.tensor.data_ptr()
    rows = torch.arange(10.0).reshape(2, 5).to(dtype)
    backend.cache_write(cache, rows, torch.tensor([7, 2], dtype=torch.int32))
    assert cache.tensor.data_ptr() == address
    assert torch.equal(cache.tensor[[7, 2]], rows)
    assert int(cache.tensor.isnan().sum()) == 50


def test_weights_are_digits_in_one_profile_and_floats_in_the_other() -> None:
    weight = torch.randn(6, 10).bfloat16()
    exact, fast = (
        runtime(numerics).prepare_weight(WeightRole.LINEAR, weight).data
        for numerics in (Numerics.EXACT, Numerics.FAST)
    )
    assert (exact.digits.shape, exact.digits.dtype) == ((2, 10, 6), torch.int8)  # type: ignore
    assert torch.equal(fast.tensor, weight.float().T)  # type: ignore[attr-defined]


def test_what_the_backend_lacks_says_why() -> None:
    rt: Runtime = runtime(Numerics.EXACT)
    with pytest.raises(Unsupported, match="absorbed form"):
        rt.backend.mla_expanded(*[None] * 7)  # type: ignore[arg-type]
