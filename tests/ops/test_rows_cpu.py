"""Norms, rope and swiglu of the CPU backend against the references, computed in float64."""

import pytest
import torch
from error_bounds import TINY, U, assert_within, rounded
from op_inputs import Inputs, by_dtype, call, kept, reference
from op_inputs import same_bytes as same

from glm5_hal import WeightRole, ops


@by_dtype
@pytest.mark.parametrize("rows", [1, 37])
@pytest.mark.parametrize("width", [1, 5, 64, 2048, 6144])
@pytest.mark.parametrize("residual", [False, True])
def test_rms_norm(dtype: torch.dtype, rows: int, width: int, residual: bool) -> None:
    """Squares, their sum and mean: D + 1 roundings of positive terms, halved by the root.

    Then eps, root, reciprocal and two products: six more at most.
    """
    inputs = Inputs("rms", rows, width)
    x = inputs.normal(rows, width, dtype=dtype)
    more = inputs.normal(rows, width, dtype=dtype, scale=3) if residual else None
    w = inputs.vector(width)
    y, h = call(ops.rms_norm, x, w, 1e-5, more)
    assert same(h, x if more is None else (x.double() + more.double()).to(dtype))
    exact, _ = reference(ops.rms_norm, h, w, 1e-5)
    assert_within(y, exact, rounded((width / 2 + 7) * U * exact.abs(), exact, dtype))


@by_dtype
@pytest.mark.parametrize("rows", [1, 37])
@pytest.mark.parametrize("width", [1, 2, 45, 128, 1000])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_layer_norm(dtype: torch.dtype, rows: int, width: int, offset: float) -> None:
    """In float64, so that all but the last rounding is as good as exact, a far mean included."""
    inputs = Inputs("layer", rows, width)
    x = (inputs.normal(rows, width) + offset).to(dtype)
    w, b = inputs.vector(width), inputs.vector(width, 0)
    exact = reference(ops.layer_norm, x, w, b, 1e-6)
    found = call(ops.layer_norm, x, w, b, 1e-6)
    assert_within(found, exact, rounded(1e-9, exact, dtype))


@by_dtype
@pytest.mark.parametrize("width", [1, 3, 64, 100, 128, 1000])
@pytest.mark.parametrize("value", [0.0, 0.1, -1000.1, 12345.678])
def test_layer_norm_of_a_constant_row_is_its_bias(
    dtype: torch.dtype, width: int, value: float
) -> None:
    inputs = Inputs("constant")
    w, b = inputs.vector(width), inputs.vector(width, 0)
    x = torch.full((3, width), value).to(dtype)
    assert same(call(ops.layer_norm, x, w, b, 1e-6), b.tensor.to(dtype).expand(3, -1))


@by_dtype
@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize(("rows", "heads", "width"), [(1, 1, 2), (5, 3, 6), (33, 4, 64)])
def test_rope(dtype: torch.dtype, interleaved: bool, rows: int, heads: int, width: int) -> None:
    """Two products and a sum: two roundings of each product's magnitude."""
    inputs = Inputs("rope", rows)
    angles = inputs.uniform(50, width // 2) * 6.3
    table = kept(WeightRole.ROPE_TABLE, torch.cat((angles.cos(), angles.sin()), dim=1))
    x = inputs.normal(rows, heads, width, dtype=dtype)
    positions = inputs.integers(0, 50, rows)
    exact = reference(ops.rope, x, positions, table, interleaved)
    found = call(ops.rope, x, positions, table, interleaved)
    pairs = x.double().unflatten(-1, (-1, 2) if interleaved else (2, -1))
    largest = pairs.abs().sum(-1 if interleaved else -2)
    error = largest.repeat_interleave(2, -1) if interleaved else largest.repeat(1, 1, 2)
    assert_within(found, exact, rounded(2 * U * error, exact, dtype))


@by_dtype
@pytest.mark.parametrize("interleaved", [True, False])
def test_rope_pairs_and_turns_as_stated(dtype: torch.dtype, interleaved: bool) -> None:
    """A quarter turn of the first pair: (a, b) becomes (-b, a)."""
    table = kept(WeightRole.ROPE_TABLE, torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]]))
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]], dtype=dtype)
    turned = [-2.0, 1.0, 3.0, 4.0] if interleaved else [-3.0, 2.0, 1.0, 4.0]
    at = torch.ones(1, dtype=torch.int32)
    assert call(ops.rope, x, at, table, interleaved).flatten().tolist() == turned
    assert torch.equal(call(ops.rope, x, at - 1, table, interleaved), x)


@by_dtype
@pytest.mark.parametrize("scale", [0.1, 3.0, 40.0])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 23), (17, 2048)])
def test_swiglu(dtype: torch.dtype, scale: float, rows: int, width: int) -> None:
    """exp is off by 2 u; the sum, the reciprocal and two products by u each: 6 u.

    Where exp(-g) overflows, the result is 0 and the truth below |g u| 2^-127.
    """
    x = Inputs("swiglu", rows).normal(rows, 2 * width, dtype=dtype, scale=scale)
    exact = reference(ops.swiglu, x)
    gate, up = x.double().chunk(2, dim=-1)
    error = 6 * U * exact.abs() + (gate * up).abs() * TINY
    assert_within(call(ops.swiglu, x), exact, rounded(error, exact, dtype))


@by_dtype
def test_swiglu_far_out(dtype: torch.dtype) -> None:
    gate = torch.tensor([1e4, 3e38, torch.inf, -1e4, -3e38, -torch.inf, torch.nan, -0.0])
    y = call(ops.swiglu, torch.cat((gate, torch.full((8,), 0.5)))[None].to(dtype))[0].tolist()
    assert y[0] == torch.tensor(5000.0).to(dtype)
    assert 1e38 < y[1] < 2e38
    assert y[2] == torch.inf
    assert y[3:5] == [0, 0]
    assert y[5] != y[5]
    assert y[6] != y[6]
    assert y[7] == 0
