"""A mapping only submits work: its tensors stay on the device, and it asks none for its values."""

import sys
from dataclasses import fields, is_dataclass, replace
from types import SimpleNamespace
from typing import Any

import fused_inputs as given
import pytest
import torch
from fused_vendors import RECORDS
from torch._subclasses.fake_tensor import FakeTensorMode

from glm5_hal.backends.torch_triton.fused import Fused
from glm5_hal.contract import OPS

ARGUMENTS: dict[str, Any] = {
    "latent_attention": given.attention,
    "index_scores": given.index,
    "topk": lambda: given.scores(5),
    "moe_route": given.route,
    "grouped_linear": given.grouped,
    "swiglu": lambda: (given.randn(5, 24),),
}
HOST = {"kv_lod_cpu"}
"""Arguments that a published call wants on the host."""
DEVICE = torch.device("meta")


def _on_device(value: Any, mode: FakeTensorMode) -> Any:
    """The same without contents, on a device of no chip."""
    if isinstance(value, torch.Tensor):
        return mode.from_tensor(value).to(DEVICE)
    if is_dataclass(value) and not isinstance(value, type):
        inside = {f.name: _on_device(getattr(value, f.name), mode) for f in fields(value)}
        return replace(value, **inside)
    return value


def _function(op: str, seen: list[torch.device]) -> Any:
    """Takes whatever it is given, and gives what such a function returns."""

    def run(*arguments: Any, **named: Any) -> Any:
        tensors = [value for value in arguments if isinstance(value, torch.Tensor)]
        for name, value in named.items():
            if isinstance(value, torch.Tensor) and name not in HOST:
                tensors.append(value)
        seen.extend(tensor.device for tensor in tensors)
        first = tensors[0]
        return {
            "latent_attention": lambda: (first.new_empty(*first.shape[:2], 512),),
            "index_scores": lambda: first.new_empty(first.shape[0], 192, dtype=torch.float32),
            "topk": lambda: None,
            "moe_route": lambda: (None, first.new_empty(first.shape[0], 8, dtype=torch.int32)),
            "grouped_linear": lambda: first.new_empty(first.shape[0], 24),
            "swiglu": lambda: first.new_empty(first.shape[0], first.shape[1] // 2),
        }[op]()

    return run


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    there = SimpleNamespace(
        get_device_properties=lambda index: SimpleNamespace(multi_processor_count=104)
    )
    package = SimpleNamespace(get_paged_mqa_logits_metadata=lambda lengths, page, count: lengths)
    monkeypatch.setitem(sys.modules, "deep_gemm", package)
    return SimpleNamespace(index=0, _namespace=lambda: there)


@pytest.mark.parametrize(("vendor", "fused"), RECORDS)
def test_no_tensor_leaves_the_device(vendor: str, fused: Fused, backend: Any) -> None:
    arguments = ARGUMENTS[fused.op]()
    wanted = OPS[fused.op].reference(*arguments)
    seen: list[torch.device] = []
    with FakeTensorMode() as mode:  # raises where a value is asked for, or devices are mixed
        put = tuple(_on_device(value, mode) for value in arguments)
        found = fused.call(_function(fused.op, seen), backend, *put)
    assert seen
    assert set(seen) == {DEVICE}
    for one, other in zip(
        found if isinstance(found, tuple) else (found,),
        wanted if isinstance(wanted, tuple) else (wanted,),
        strict=True,
    ):
        assert (one.shape, one.dtype, one.device) == (other.shape, other.dtype, DEVICE)
