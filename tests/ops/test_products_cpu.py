"""Matrix products of the CPU backend against the references, computed in float64."""

import pytest
import torch
from error_bounds import absolute, assert_within, gamma, rounded
from op_inputs import ACTIVATIONS, Inputs, by_dtype, call, kept, reference

from glm5_hal import WeightRole, ops

WIDTHS = [(1, 1, 1), (3, 7, 5), (33, 64, 40), (5, 513, 2), (70, 2048, 9), (2, 6144, 33)]
"""Rows, terms of a sum, columns."""


@by_dtype
@pytest.mark.parametrize(("rows", "terms", "columns"), WIDTHS)
@pytest.mark.parametrize("w_dtype", ACTIVATIONS, ids=["w32", "w16"])
@pytest.mark.parametrize("out_dtype", [None, torch.float32], ids=["same", "wide"])
def test_linear(
    dtype: torch.dtype,
    rows: int,
    terms: int,
    columns: int,
    w_dtype: torch.dtype,
    out_dtype: torch.dtype | None,
) -> None:
    inputs = Inputs("linear", rows, terms)
    x = inputs.normal(rows, terms, dtype=dtype)
    w = inputs.weight(WeightRole.LINEAR, columns, terms, dtype=w_dtype)
    found = call(ops.linear, x, w, out_dtype)
    assert found.dtype == (out_dtype or dtype)
    exact = reference(ops.linear, x, w)
    error = gamma(terms) * (x.double().abs() @ absolute(w).T)
    assert_within(found, exact, rounded(error, exact, found.dtype))


def test_linear_takes_products_at_full_precision() -> None:
    """11 bits of operand, as in TF32, would lose the 2^-12."""
    x = torch.full((3, 32), 1 + 2.0**-12)
    ones = kept(WeightRole.LINEAR, torch.ones(4, 32))
    assert (call(ops.linear, x, ones) == 32 + 32 * 2.0**-12).all()
    assert (call(ops.linear, torch.ones(3, 32), kept(WeightRole.LINEAR, x)) == 32 + 2.0**-7).all()


def test_linear_wide_result_takes_no_detour() -> None:
    x = torch.ones(1, 2, dtype=torch.bfloat16)
    w = kept(WeightRole.LINEAR, torch.tensor([[1.0, 2.0**-10]], dtype=torch.bfloat16))
    assert call(ops.linear, x, w, torch.float32).item() == 1 + 2.0**-10
    assert call(ops.linear, x, w).item() == 1


@by_dtype
@pytest.mark.parametrize("w_dtype", ACTIVATIONS, ids=["w32", "w16"])
@pytest.mark.parametrize(("rows", "terms", "columns"), WIDTHS[:-1])
def test_head_linear(
    dtype: torch.dtype, w_dtype: torch.dtype, rows: int, terms: int, columns: int
) -> None:
    inputs = Inputs("head_linear", rows, terms)
    x = inputs.normal(rows, 3, terms, dtype=dtype)
    w = inputs.weight(WeightRole.HEAD_LINEAR, 3, columns, terms, dtype=w_dtype)
    exact = reference(ops.head_linear, x, w)
    error = gamma(terms) * torch.einsum("thk,hnk->thn", x.double().abs(), absolute(w))
    assert_within(call(ops.head_linear, x, w), exact, rounded(error, exact, dtype))


OFFSETS = {
    "spread": [0, 3, 10, 11, 40],
    "empty": [0, 0, 40, 40, 40],
    "last": [0, 0, 0, 0, 40],
    "first": [0, 40, 40, 40, 40],
    "none": [0, 0, 0, 0, 0],
}


@by_dtype
@pytest.mark.parametrize("name", OFFSETS)
@pytest.mark.parametrize("terms", [7, 64, 2048])
def test_grouped_linear(dtype: torch.dtype, name: str, terms: int) -> None:
    inputs = Inputs("grouped", terms)
    offsets = torch.tensor(OFFSETS[name], dtype=torch.int32)
    x = inputs.normal(OFFSETS[name][-1], terms, dtype=dtype)
    w = inputs.weight(WeightRole.EXPERTS, 4, 6, terms, dtype=dtype)
    exact = reference(ops.grouped_linear, x, w, offsets)
    magnitudes = kept(WeightRole.EXPERTS, absolute(w))
    error = gamma(terms) * reference(ops.grouped_linear, x.abs(), magnitudes, offsets)
    assert_within(call(ops.grouped_linear, x, w, offsets), exact, rounded(error, exact, dtype))
