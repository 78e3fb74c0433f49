"""Routing, dispatch, experts and combination on the CPU backend."""

from collections.abc import Callable

import pytest
import torch
from error_bounds import ROUNDOFF, U, assert_within, gamma, rounded
from op_inputs import Inputs, by_dtype, call, kept, reference
from op_inputs import same_bytes as same
from torch import Tensor

from glm5_hal import WeightRole, ops

# --- dispatch and combination ---


ROUTES: dict[str, Callable[[Inputs], Tensor]] = {
    "spread": lambda inputs: inputs.experts(40, 3, 9),
    "one token": lambda inputs: inputs.experts(1, 3, 9),
    "nobody": lambda inputs: inputs.experts(0, 3, 9),
    "hot": lambda inputs: torch.tensor([[2, 4, 8]]).repeat(40, 1).int(),
    "one expert a token": lambda inputs: inputs.integers(0, 9, 40, 1),
    "all to the last": lambda inputs: torch.full((40, 1), 8, dtype=torch.int32),
}


@by_dtype
@pytest.mark.parametrize("name", ROUTES)
def test_dispatch_and_combine(dtype: torch.dtype, name: str) -> None:
    """Combining: a product and a sum a slot, one more for the shared row."""
    inputs = Inputs("dispatch", name)
    ids = ROUTES[name](inputs)
    tokens, k = ids.shape
    x = inputs.normal(tokens, 6, dtype=dtype)
    rows, offsets, slots = call(ops.moe_dispatch, x, ids, 9)
    wanted = sorted(range(tokens * k), key=lambda slot: (int(ids.flatten()[slot]), slot))
    assert slots.tolist() == wanted
    assert offsets.tolist() == [int((ids < expert).sum()) for expert in range(10)]
    assert same(rows, x[torch.tensor(wanted, dtype=torch.long) // k])

    weights = inputs.normal(tokens, k)
    shared = inputs.normal(tokens, 6, dtype=dtype)
    for more in (None, shared):
        exact = reference(ops.moe_combine, rows, slots, weights, more)
        magnitude = reference(
            ops.moe_combine, rows.abs(), slots, weights.abs(), None if more is None else more.abs()
        )
        found = call(ops.moe_combine, rows, slots, weights, more)
        assert_within(found, exact, rounded((k + 2) * U * magnitude, exact, dtype))


def test_combine_adds_in_slot_order_and_the_shared_row_last() -> None:
    """1 is lost against 2^25 unless the large terms cancel first."""
    rows = torch.tensor([[2.0**25], [-(2.0**25)], [1.0]])
    ones = torch.ones(1, 3)
    for places, expected in (([0, 1, 2], 1.0), ([2, 0, 1], 0.0)):
        # slots[p] says which slot row p belongs to
        slots = torch.tensor([places.index(row) for row in range(3)], dtype=torch.int32)
        assert call(ops.moe_combine, rows, slots, ones).item() == expected
    two, slots = rows[:2], torch.tensor([0, 1], dtype=torch.int32)
    shared = torch.ones(1, 1)
    assert call(ops.moe_combine, two, slots, torch.ones(1, 2), shared).item() == 1
    assert call(ops.moe_combine, rows[1:], slots, torch.ones(1, 2), rows[:1]).item() == 0


# --- routing ---


def sigmoid(x: float) -> float:
    return float(torch.sigmoid(torch.tensor(x, dtype=torch.float64)))


def single(x: float) -> float:
    """`x` rounded to float32."""
    return float(torch.tensor(x, dtype=torch.float32))


def route(
    logits: list[float], bias: list[float], k: int, groups: int, kept_groups: int
) -> tuple[list[int], list[float]]:
    """Ids and unnormalised weights of one token; what is compared is in float32."""
    scores = [sigmoid(x) for x in logits]
    choice = [single(single(s) + b) for s, b in zip(scores, bias, strict=True)]
    size = len(logits) // groups
    group_score = [
        single(sum(sorted(choice[g * size : (g + 1) * size])[-2:])) for g in range(groups)
    ]
    best = sorted(range(groups), key=lambda g: (-group_score[g], g))[:kept_groups]
    allowed = [e for e in range(len(logits)) if groups == 1 or e // size in best]
    ids = sorted(sorted(allowed, key=lambda e: (-choice[e], e))[:k])
    return ids, [scores[e] for e in ids]


@pytest.mark.parametrize(("groups", "kept_groups"), [(1, 1), (4, 2), (2, 1), (3, 3)])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("levels", [1, 2, 3, 40])
def test_moe_route(groups: int, kept_groups: int, normalize: bool, levels: int) -> None:
    """Logits and biases from few levels: ties everywhere, and otherwise wide gaps.

    A sigmoid is off by 5 u; the sum of k, the quotient and the product add k + 2.
    """
    inputs = Inputs("route", groups, levels)
    experts, k = 12, 4
    logits = inputs.integers(0, levels, 30, experts).float() / 4 - 1
    bias = inputs.integers(0, 2, experts).float() * 0.3 if levels > 1 else torch.zeros(experts)
    weight = kept(WeightRole.VECTOR, bias)
    ids, weights = call(ops.moe_route, logits, weight, k, groups, kept_groups, normalize, 2.5)
    assert (ids.dtype, weights.dtype) == (torch.int32, torch.float32)
    for row in range(30):
        wanted, scores = route(logits[row].tolist(), bias.tolist(), k, groups, kept_groups)
        assert ids[row].tolist() == wanted
        whole = sum(scores) + 1e-20 if normalize else 1
        exact = torch.tensor([2.5 * score / whole for score in scores], dtype=torch.float64)
        assert_within(weights[row], exact, exact * (k + 8) * U)


def test_moe_route_all_equal_takes_the_lowest() -> None:
    bias = kept(WeightRole.VECTOR, torch.zeros(256))
    for value in (0.0, -0.0, 50.0, -50.0, -200.0):
        ids, weights = call(ops.moe_route, torch.full((2, 256), value), bias, 8, 1, 1, True, 1.0)
        assert ids.tolist() == [list(range(8))] * 2
        if value >= 0:
            assert weights.tolist() == [[0.125] * 8] * 2


def test_moe_route_bias_chooses_but_does_not_weigh() -> None:
    bias = torch.zeros(6)
    bias[4] = 10
    found = call(
        ops.moe_route, torch.zeros(1, 6), kept(WeightRole.VECTOR, bias), 2, 1, 1, False, 1.0
    )
    assert found[0].tolist() == [[0, 4]]
    assert found[1].tolist() == [[0.5, 0.5]]


# --- the mixture ---


@by_dtype
@pytest.mark.parametrize("name", ROUTES)
def test_moe_experts_is_its_parts(dtype: torch.dtype, name: str) -> None:
    inputs = Inputs("experts", name)
    ids = ROUTES[name](inputs)
    tokens, k = ids.shape
    x, shared = (inputs.normal(tokens, 32, dtype=dtype) for _ in range(2))
    weights = inputs.uniform(tokens, k)
    up = inputs.weight(WeightRole.EXPERTS, 9, 10, 32, dtype=dtype, scale=32**-0.5)
    down = inputs.weight(WeightRole.EXPERTS, 9, 32, 5, dtype=dtype, scale=5**-0.5)
    for more in (None, shared):
        rows, offsets, slots = call(ops.moe_dispatch, x, ids, 9)
        hidden = call(ops.swiglu, call(ops.grouped_linear, rows, up, offsets))
        out = call(ops.grouped_linear, hidden, down, offsets)
        wanted = call(ops.moe_combine, out, slots, weights, more)
        assert same(call(ops.moe_experts, x, ids, weights, up, down, more), wanted)


@by_dtype
def test_moe_experts_is_the_function_of_its_reference(dtype: torch.dtype) -> None:
    """The parts' bounds carried through: |silu'| <= 1.1, two roundings to the dtype between."""
    inputs = Inputs("experts")
    x, ids, weights = (
        inputs.normal(9, 32, dtype=dtype),
        inputs.experts(9, 3, 5),
        inputs.uniform(9, 3),
    )
    up = inputs.weight(WeightRole.EXPERTS, 5, 10, 32, dtype=dtype, scale=32**-0.5)
    down = inputs.weight(WeightRole.EXPERTS, 5, 32, 5, dtype=dtype, scale=5**-0.5)
    r = ROUNDOFF[dtype]
    exact = reference(ops.moe_experts, x, ids, weights, up, down)
    error = torch.zeros_like(exact)
    for token in range(9):
        for slot in range(3):
            expert = int(ids[token, slot])
            row, u, d = x[token].double(), up.tensor[expert].double(), down.tensor[expert].double()
            wide = u @ row
            e1 = (gamma(32) + r) * (u.abs() @ row.abs())
            gate, value = wide[:5], wide[5:]
            silu = torch.nn.functional.silu(gate)
            e2 = 1.1 * e1[:5] * (value.abs() + e1[5:]) + silu.abs() * e1[5:]
            e2 = e2 + (6 * U + r) * ((silu * value).abs() + e2)
            out = d @ (silu * value)
            e3 = d.abs() @ e2 + (gamma(5) + r) * (d.abs() @ ((silu * value).abs() + e2))
            error[token] += weights[token, slot] * (e3 + 5 * U * (out.abs() + e3))
    assert_within(
        call(ops.moe_experts, x, ids, weights, up, down), exact, rounded(error, exact, dtype)
    )
