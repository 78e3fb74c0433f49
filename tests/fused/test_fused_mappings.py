"""Every mapping onto a vendor's function gives what the contract's definition gives."""

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import fused_inputs as given
import pytest
import stand_ins
import torch
from fused_vendors import FUNCTIONS, VENDORS, of

from glm5_hal.backends.torch_triton.fused import Fused
from glm5_hal.contract import OPS


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the mappings ask of a backend."""
    there = SimpleNamespace(
        get_device_properties=lambda index: SimpleNamespace(multi_processor_count=104)
    )
    metadata = stand_ins.get_paged_mqa_logits_metadata
    package = stand_ins.module("deep_gemm", get_paged_mqa_logits_metadata=metadata)
    monkeypatch.setitem(sys.modules, "deep_gemm", package)
    return SimpleNamespace(index=0, _namespace=lambda: there)


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Both are rounded to bfloat16 once, from sums that may differ in order."""
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    torch.testing.assert_close(found, wanted, rtol=2**-7, atol=2**-14)


def answers(vendor: str, fused: Fused, backend: Any, arguments: Any) -> tuple[Any, Any]:
    """(by the library's function, by the definition)."""
    assert fused.obstacle(backend, *arguments) is None
    function = FUNCTIONS[vendor, fused.op]
    return fused.call(function, backend, *arguments), OPS[fused.op].reference(*arguments)


def test_every_record_has_a_stand_in() -> None:
    assert {(vendor, fused.op) for vendor, own in VENDORS.items() for fused in own} == set(
        FUNCTIONS
    )


@pytest.mark.parametrize(("vendor", "fused"), of("latent_attention"))
@pytest.mark.parametrize("heads", [1, 3, 64, 65])
def test_attention(vendor: str, fused: Fused, backend: Any, heads: int) -> None:
    found, wanted = answers(vendor, fused, backend, given.attention(heads))
    assert found.is_contiguous()
    assert_close(found, wanted)


@pytest.mark.parametrize(("vendor", "fused"), of("latent_attention"))
def test_attention_of_no_tokens(vendor: str, fused: Fused, backend: Any) -> None:
    q_latent, q_rope, rows, seen, scale, indices = given.attention()
    none = replace(seen, sequence=seen.sequence[:0], lengths=seen.lengths[:0])
    arguments = (q_latent[:0], q_rope[:0], rows, none, scale, indices[:0])
    found, wanted = answers(vendor, fused, backend, arguments)
    assert found.shape == wanted.shape == (0, 3, 512)


@pytest.mark.parametrize(("vendor", "fused"), of("index_scores"))
def test_index_scores(vendor: str, fused: Fused, backend: Any) -> None:
    arguments = given.index()
    found, wanted = answers(vendor, fused, backend, arguments)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    zeros = wanted == 0
    assert zeros.any()
    assert not found[zeros].signbit().any()
    assert torch.equal(found == -torch.inf, wanted == -torch.inf)


@pytest.mark.parametrize(("vendor", "fused"), of("index_scores"))
def test_index_scores_as_wide_as_asked(vendor: str, fused: Fused, backend: Any) -> None:
    """A length that no sequence has: more columns than there are pages for."""
    q, w, keys, seen, scale = given.index()
    arguments = (q, w, keys, replace(seen, max_length=64 * 5 + 1), scale)
    found, wanted = answers(vendor, fused, backend, arguments)
    assert found.shape == wanted.shape == (4, 321)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("vendor", "fused"), of("topk"))
@pytest.mark.parametrize("k", [1, 40, 149, 200])
def test_topk(vendor: str, fused: Fused, backend: Any, k: int) -> None:
    found, wanted = answers(vendor, fused, backend, given.scores(k))
    assert found.dtype == wanted.dtype
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(("vendor", "fused"), of("topk"))
def test_topk_of_a_strided_view(vendor: str, fused: Fused, backend: Any) -> None:
    values, lengths, k = given.scores(9)
    arguments = (values[:, :120], lengths.clamp(max=120), k)
    found, wanted = answers(vendor, fused, backend, arguments)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(("vendor", "fused"), of("moe_route"))
@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("normalize", [True, False])
def test_route(vendor: str, fused: Fused, backend: Any, groups: int, normalize: bool) -> None:
    arguments = given.route(groups, normalize=normalize)
    (ids, weights), (wanted_ids, wanted) = answers(vendor, fused, backend, arguments)
    assert ids.dtype == wanted_ids.dtype
    assert torch.equal(ids, wanted_ids)
    torch.testing.assert_close(weights, wanted, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(("vendor", "fused"), of("moe_route"))
def test_route_of_no_tokens(vendor: str, fused: Fused, backend: Any) -> None:
    logits, *others = given.route()
    (ids, weights), _ = answers(vendor, fused, backend, (logits[:0], *others))
    assert (ids.shape, ids.dtype) == ((0, 8), torch.int32)
    assert (weights.shape, weights.dtype) == ((0, 8), torch.float32)


@pytest.mark.parametrize(("vendor", "fused"), of("grouped_linear"))
def test_grouped_linear(vendor: str, fused: Fused, backend: Any) -> None:
    found, wanted = answers(vendor, fused, backend, given.grouped())
    assert_close(found, wanted)


@pytest.mark.parametrize(("vendor", "fused"), of("grouped_linear"))
def test_grouped_linear_of_one_row_and_of_none(vendor: str, fused: Fused, backend: Any) -> None:
    x, w, _ = given.grouped()
    for rows in (1, 0):
        offsets = torch.tensor([0, 0, 0, rows, rows, rows, rows, rows], dtype=torch.int32)
        found, wanted = answers(vendor, fused, backend, (x[:rows], w, offsets))
        assert_close(found, wanted)


@pytest.mark.parametrize(("vendor", "fused"), of("swiglu"))
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_swiglu(vendor: str, fused: Fused, backend: Any, rows: int) -> None:
    found, wanted = answers(vendor, fused, backend, (given.randn(rows, 24),))
    assert_close(found, wanted)
