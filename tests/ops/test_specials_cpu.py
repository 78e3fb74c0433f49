"""Empty calls, rows of NaN and infinity, equal rows, zeros: what holds for many ops."""

from collections.abc import Callable

import pytest
import torch
from op_inputs import Inputs, by_dtype, call, context, kept, paged
from op_inputs import same_bytes as same
from torch import Tensor

from glm5_hal import WeightRole, ops


def rowwise(dtype: torch.dtype) -> dict[str, tuple[Tensor, Callable[[Tensor], Tensor]]]:
    """Ops of one row input and its width; the function takes rows of that shape."""
    inputs = Inputs("rowwise")
    w, b = inputs.vector(32), inputs.vector(32, 0)
    matrix = inputs.weight(WeightRole.LINEAR, 5, 32, dtype=dtype)
    heads = inputs.weight(WeightRole.HEAD_LINEAR, 2, 5, 32, dtype=dtype)
    table = kept(WeightRole.ROPE_TABLE, torch.ones(40, 32))
    experts = inputs.weight(WeightRole.EXPERTS, 2, 5, 32, dtype=dtype)

    def turn(x: Tensor) -> Tensor:
        found: Tensor = call(ops.rope, x, torch.arange(len(x)).int(), table, True)
        return found

    def group(x: Tensor) -> Tensor:
        offsets = torch.tensor([0, len(x) // 2, len(x)], dtype=torch.int32)
        found: Tensor = call(ops.grouped_linear, x, experts, offsets)
        return found

    flat, deep = inputs.normal(6, 32, dtype=dtype), inputs.normal(6, 2, 32, dtype=dtype)
    return {
        "linear": (flat, lambda x: call(ops.linear, x, matrix)),
        "head_linear": (deep, lambda x: call(ops.head_linear, x, heads)),
        "rms_norm": (flat, lambda x: call(ops.rms_norm, x, w, 1e-5)[0]),
        "residual": (flat, lambda x: call(ops.rms_norm, x, w, 1e-5, x)[1]),
        "layer_norm": (flat, lambda x: call(ops.layer_norm, x, w, b, 1e-5)),
        "rope": (deep, turn),
        "swiglu": (flat, lambda x: call(ops.swiglu, x)),
        "grouped_linear": (flat, group),
    }


NAMES = list(rowwise(torch.float32))


@by_dtype
@pytest.mark.parametrize("name", NAMES)
def test_no_rows_give_no_rows(dtype: torch.dtype, name: str) -> None:
    x, run = rowwise(dtype)[name]
    assert run(x[:0]).shape == (0, *run(x).shape[1:])


@by_dtype
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_bad_row_stays_a_row(dtype: torch.dtype, name: str, value: float) -> None:
    x, run = rowwise(dtype)[name]
    bad = x.clone()
    bad[2, ..., 3] = value
    before, after = run(x), run(bad)
    others = torch.tensor([0, 1, 3, 4, 5])
    assert same(before[others], after[others])
    assert not after[2].isfinite().all()


@by_dtype
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("rope", "grouped_linear")])
def test_equal_rows_give_equal_rows(dtype: torch.dtype, name: str) -> None:
    x, run = rowwise(dtype)[name]
    found = run(x[:1].expand(40, *x.shape[1:]))
    assert same(found, found[:1].expand_as(found).contiguous())


@by_dtype
def test_zero_rows(dtype: torch.dtype) -> None:
    for zero in (0.0, -0.0):
        x = torch.full((2, 64), zero, dtype=dtype)
        y, h = call(ops.rms_norm, x, kept(WeightRole.VECTOR, torch.ones(64)), 1e-5)
        assert (y == 0).all()
        assert same(h, x)
        assert (call(ops.swiglu, x) == 0).all()
        matrix = kept(WeightRole.LINEAR, torch.ones(3, 64).to(dtype))
        assert (call(ops.linear, x, matrix) == 0).all()


def test_ops_of_no_tokens() -> None:
    none, ids = torch.zeros(0, 2, 8), torch.zeros(0, dtype=torch.int32)
    cache, table = paged([torch.zeros(8, 12)], 4)
    keys, _ = paged([torch.zeros(8, 8)], 4)
    where = context(table, [], [], extra=4)
    attended = call(ops.latent_attention, none, torch.zeros(0, 2, 4), cache, where, 1.0)
    assert attended.shape == (0, 2, 8)
    assert call(ops.index_scores, none, torch.zeros(0, 2), keys, where, 1.0).shape == (0, 5)
    assert call(ops.dsa_select, none, torch.zeros(0, 2), keys, where, 1.0, 3).shape == (0, 3)
    assert call(ops.topk, torch.zeros(0, 5), ids, 3).shape == (0, 3)
    bias = kept(WeightRole.VECTOR, torch.zeros(4))
    for found in call(ops.moe_route, torch.zeros(0, 4), bias, 2, 1, 1, True, 1.0):
        assert found.shape == (0, 2)
    assert call(ops.sample, torch.zeros(0, 4), none[:, 0, 0], none[:, 0, 0], ids).shape == (0,)
    assert call(ops.muon_orthogonalize, torch.zeros(0, 3, 4)).shape == (0, 3, 4)
