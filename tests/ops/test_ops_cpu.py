"""The CPU backend's arithmetic against the references, computed in float64 without rounding.

Bounds are derived, not tuned. With u = 2^-24, the unit roundoff of float32, every float32
operation is off by u relative; a sum of K products in any order, fused or not, is off by at most
K u / (1 - K u) times the sum of the products' magnitudes. The result is then rounded once.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_inputs import ACTIVATIONS, Inputs, call, context, empty_cache, kept, paged, reference
from op_inputs import same_bytes as same
from torch import Tensor

from glm5_hal import Cache, PagedContext, Weight, WeightRole, ops

U = 2.0**-24
ROUNDOFF = {torch.float32: U, torch.bfloat16: 2.0**-8}
TINY = 2.0**-126
"""Below it a library may flush to zero."""

by_dtype = pytest.mark.parametrize("dtype", ACTIVATIONS, ids=["fp32", "bf16"])
WIDTHS = [(1, 1, 1), (3, 7, 5), (33, 64, 40), (5, 513, 2), (70, 2048, 9), (2, 6144, 33)]
"""Rows, terms of a sum, columns."""


def gamma(terms: int) -> float:
    """Relative error of a float32 sum of products."""
    return terms * U / (1 - terms * U)


def rounded(error: Tensor | float, exact: Tensor, dtype: torch.dtype) -> Tensor:
    """The bound `error` on a float32 result, with its rounding to `dtype` added."""
    return error + ROUNDOFF[dtype] * (exact.abs() + error) + TINY


def assert_within(found: Tensor, exact: Tensor, bound: Tensor) -> None:
    """No element is further from the exact value than its bound."""
    assert exact.dtype == torch.float64
    excess = ((found.double() - exact).abs() / bound).nan_to_num(torch.inf)
    assert found.shape == exact.shape
    assert not excess.numel() or float(excess.max()) <= 1, f"{float(excess.max())} times the bound"


def absolute(weight: Weight) -> Tensor:
    """Magnitudes of a weight, float64."""
    return weight.tensor.double().abs()


# --- contractions ---


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


# --- norms and elementwise ---


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


# --- moving rows ---


@by_dtype
@pytest.mark.parametrize("rows", [0, 1, 40])
def test_embedding_and_cache_move_bytes(dtype: torch.dtype, rows: int) -> None:
    inputs = Inputs("move", rows)
    special = torch.tensor([-0.0, torch.nan, torch.inf, -torch.inf, 1e-40])
    table = torch.cat((inputs.normal(30, 5), special[None])).to(dtype)
    ids = inputs.integers(0, 31, rows)
    ids[: rows // 4] = 30
    found = call(ops.embedding, ids, kept(WeightRole.EMBEDDING, table))
    assert same(found, table[ids.long()])

    cache = empty_cache(11, 4, 5, dtype, fill=7)
    before = cache.tensor.clone()
    slots = inputs.permutation(44)[:rows].int()
    assert call(ops.cache_write, cache, found, slots) is None
    assert same(call(ops.cache_read, cache, slots), found)
    untouched = torch.ones(44, dtype=torch.bool)
    untouched[slots.long()] = False
    assert same(cache.tensor[untouched], before[untouched])


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


def route(
    logits: list[float], bias: list[float], k: int, groups: int, kept_groups: int
) -> tuple[list[int], list[float]]:
    """Ids and unnormalised weights of one token, from plain numbers."""
    scores = [sigmoid(x) for x in logits]
    choice = [s + b for s, b in zip(scores, bias, strict=True)]
    size = len(logits) // groups
    group_score = [sum(sorted(choice[g * size : (g + 1) * size])[-2:]) for g in range(groups)]
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


# --- attention ---


class Attended:
    """Three sequences in permuted pages, and queries that see them."""

    def __init__(self, dtype: torch.dtype, *, order: bool = True, fill: float = torch.nan) -> None:
        inputs = Inputs("attention")
        self.heads, self.latent, self.rotated = 3, 20, 6
        self.rows = [inputs.normal(n, 26, dtype=dtype) for n in (300, 40, 129)]
        permuted = inputs.permutation(60)
        self.cache, self.table = paged(self.rows, 8, permuted if order else None, fill)
        self.sequence = [0] * 4 + [1] * 3 + [2] * 4
        self.lengths = [125, 126, 127, 128, 1, 2, 3, 126, 127, 128, 129]
        tokens = len(self.lengths)
        self.q_latent = inputs.normal(tokens, 3, 20, dtype=dtype)
        self.q_rope = inputs.normal(tokens, 3, 6, dtype=dtype)
        self.indices = torch.full((tokens, 33), -1, dtype=torch.int32)
        for row, length in enumerate(self.lengths):
            chosen = inputs.permutation(length)[:33].sort().values
            self.indices[row, : chosen.numel()] = chosen

    @property
    def context(self) -> PagedContext:
        return context(self.table, self.sequence, self.lengths)

    @property
    def query(self) -> tuple[Tensor, Tensor, Cache, PagedContext, float]:
        return self.q_latent, self.q_rope, self.cache, self.context, 0.2

    def run(self, indices: Tensor | None = None) -> Tensor:
        found: Tensor = call(ops.latent_attention, *self.query, indices)
        return found


def all_positions(lengths: list[int], width: int) -> Tensor:
    """Every visible row, padded with -1."""
    place = torch.arange(width, dtype=torch.int32)
    return torch.where(place < torch.tensor(lengths).unsqueeze(1), place, -1)


def attention_bound(
    query: Tensor, rows: Tensor, scale: float, exact: Tensor, latent: int
) -> Tensor:
    """On one token's result [H, C], before its rounding.

    A score is off by its contraction, the scale and the subtraction of the maximum; a weight by
    as much, and by exp, relative. Every tile of 128 rows rescales by one more such factor. The
    numerator and the denominator share these relative errors and add those of their sums.
    """
    contraction = query.abs() @ rows.abs().T * scale
    score = (query @ rows.T * scale).abs().amax(-1, keepdim=True)
    off = (gamma(rows.shape[1] + 1) * contraction).amax(-1, keepdim=True) + 3 * U * score
    tiles = -(-rows.shape[0] // 128)
    relative = (1 + tiles) * (off + 4 * U) + gamma(rows.shape[0] + tiles)
    weights = torch.softmax(query @ rows.T * scale, dim=-1)
    return 2.1 * relative * (weights @ rows[:, :latent].abs()) + U * exact.abs()


@by_dtype
@pytest.mark.parametrize("selected", [False, True])
def test_latent_attention(dtype: torch.dtype, selected: bool) -> None:
    """Unused slots and rows behind a length hold NaN: none comes through."""
    case = Attended(dtype)
    indices = case.indices if selected else None
    found = case.run(indices)
    exact = reference(ops.latent_attention, *case.query, indices)
    query = torch.cat((case.q_latent, case.q_rope), dim=-1).double()
    for token, length in enumerate(case.lengths):
        rows = case.rows[case.sequence[token]][:length].double()
        if indices is not None:
            rows = rows[indices[token][indices[token] >= 0].long()]
        error = attention_bound(query[token], rows, 0.2, exact[token], case.latent)
        assert_within(found[token], exact[token], rounded(error, exact[token], dtype))


@by_dtype
def test_attention_to_all_indices_is_attention_without(dtype: torch.dtype) -> None:
    case = Attended(dtype)
    for width in (129, 140):
        assert same(case.run(all_positions(case.lengths, width)), case.run())


@by_dtype
def test_attention_ignores_everything_after_the_first_padding(dtype: torch.dtype) -> None:
    case = Attended(dtype)
    short = case.indices[4:7, :3]
    garbage = torch.tensor([[0, -1, 0], [0, 1, -1], [0, 1, 2]], dtype=torch.int32)
    clean = torch.tensor([[0, -1, -1], [0, 1, -1], [0, 1, 2]], dtype=torch.int32)
    assert same(short, clean)
    case.q_latent, case.q_rope = case.q_latent[4:7], case.q_rope[4:7]
    case.sequence, case.lengths = case.sequence[4:7], case.lengths[4:7]
    assert same(case.run(garbage), case.run(clean))
    assert same(case.run(garbage), case.run())


@by_dtype
def test_attention_does_not_depend_on_pages_or_what_is_unused(dtype: torch.dtype) -> None:
    case = Attended(dtype)
    for other in (Attended(dtype, order=False), Attended(dtype, fill=1e4)):
        assert same(case.run(), other.run())
        assert same(case.run(case.indices), other.run(case.indices))


@by_dtype
def test_attention_does_not_depend_on_max_length(dtype: torch.dtype) -> None:
    case = Attended(dtype)
    longer = context(case.table, case.sequence, case.lengths, extra=77)
    found = call(ops.latent_attention, case.q_latent, case.q_rope, case.cache, longer, 0.2)
    assert same(found, case.run())


@by_dtype
@pytest.mark.parametrize("place", [0, 125, 126])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_bad_row_reaches_those_who_see_it(dtype: torch.dtype, place: int, value: float) -> None:
    """Queries of sequence 2 that are long enough or that have chosen it, and nobody else."""
    case = Attended(dtype)
    chosen = (case.indices == place).any(1)
    whole, selected = case.run(), case.run(case.indices)
    slot = int(case.table[2, place // 8]) * 8 + place % 8
    case.cache.tensor[slot, 3] = value
    for before, after, by_index in (
        (whole, case.run(), False),
        (selected, case.run(case.indices), True),
    ):
        for token, (sequence, length) in enumerate(zip(case.sequence, case.lengths, strict=True)):
            if sequence == 2 and (chosen[token] if by_index else place < length):
                assert not after[token].isfinite().all(-1).any()
            else:
                assert same(before[token], after[token])


@by_dtype
def test_attention_of_equal_scores_is_the_mean(dtype: torch.dtype) -> None:
    """All scores 0: weights 1, so the values are summed and divided by their number."""
    values = Inputs("mean").integers(-4, 5, 256, 26).to(dtype)
    cache, table = paged([values], 16)
    zeros = torch.zeros(2, 3, 20, dtype=dtype), torch.zeros(2, 3, 6, dtype=dtype)
    found = call(ops.latent_attention, *zeros, cache, context(table, [0, 0], [255, 256]), 1.0)
    exact = values[:256, :20].double().mean(0).to(dtype)
    assert same(found[1], exact.expand(3, -1))


@by_dtype
@pytest.mark.parametrize("op", [ops.mla, ops.mla_expanded], ids=["absorbed", "expanded"])
@pytest.mark.parametrize("selected", [False, True])
def test_mla(dtype: torch.dtype, op: Any, selected: bool) -> None:
    """Bounds of the parts in sequence, for either form.

    Absorbed: the query through W_UK, rounded; scores; values, rounded; W_UV. Expanded: keys and
    values through the same matrices, unrounded, which is within the same sums of magnitudes.
    """
    case, inputs = Attended(dtype), Inputs("mla")
    nope, width, latent, heads = 10, 9, case.latent, case.heads
    role, r = WeightRole.HEAD_LINEAR, ROUNDOFF[dtype]
    w_uk = inputs.weight(role, heads, latent, nope, dtype=dtype, scale=nope**-0.5)
    w_uv = inputs.weight(role, heads, width, latent, dtype=dtype, scale=latent**-0.5)
    q_nope = inputs.normal(len(case.lengths), heads, nope, dtype=dtype)
    indices = case.indices if selected else None
    args = q_nope, case.q_rope, case.cache, case.context, w_uk, w_uv, 0.2, indices
    found, exact = call(op, *args), reference(op, *args)

    k, v = w_uk.tensor.double(), w_uv.tensor.double()
    for token, length in enumerate(case.lengths):
        rows = case.rows[case.sequence[token]][:length].double()
        if indices is not None:
            rows = rows[indices[token][indices[token] >= 0].long()]
        q = q_nope[token].double()
        absorbed = torch.einsum("hn,hcn->hc", q, k)
        off = (gamma(nope) + r) * torch.einsum("hn,hcn->hc", q.abs(), k.abs())
        query = torch.cat((absorbed, case.q_rope[token].double()), dim=-1)
        largest = torch.cat((absorbed.abs() + off, case.q_rope[token].double().abs()), dim=-1)
        weights = torch.softmax(query @ rows.T * 0.2, dim=-1)
        content = weights @ rows[:, :latent].abs()
        # scores move by at most `shift`, weights by twice as much relative
        shift = (off @ rows[:, :latent].abs().T * 0.2).amax(-1, keepdim=True)
        inner = attention_bound(largest, rows.abs(), 0.2, content, latent)
        middle = (torch.expm1(2 * shift) + r) * content + 2 * inner
        spread = torch.einsum("hc,hvc->hv", content + middle, v.abs())
        error = torch.einsum("hc,hvc->hv", middle, v.abs()) + gamma(latent) * spread
        assert_within(found[token], exact[token], rounded(error, exact[token], dtype))


# --- selection ---


@by_dtype
@pytest.mark.parametrize("stale", [torch.nan, 1e4])
def test_index_scores(dtype: torch.dtype, stale: float) -> None:
    """Products through their contraction, then H terms with two more roundings each.

    The reference itself is rounded to float32 once.
    """
    inputs = Inputs("scores")
    heads, width = 4, 16
    keys = [inputs.normal(n, width, dtype=dtype) for n in (600, 30)]
    cache, table = paged(keys, 8, inputs.permutation(80), stale)
    q, w = inputs.normal(7, heads, width, dtype=dtype), inputs.normal(7, heads)
    where = context(table, [0] * 4 + [1] * 3, [510, 511, 512, 513, 28, 29, 30], extra=5)
    found = call(ops.index_scores, q, w, cache, where, 0.3)
    exact = reference(ops.index_scores, q, w, cache, where, 0.3).double()
    assert found.shape == (7, 518)
    hidden = torch.arange(518) >= where.lengths.unsqueeze(1)
    assert (found[hidden] == -torch.inf).all()
    for token in range(7):
        length = int(where.lengths[token])
        rows = keys[int(where.sequence[token])][:length].double().abs()
        magnitude = w[token].double().abs() * 0.3 @ (q[token].double().abs() @ rows.T)
        bound = (gamma(width) + gamma(heads + 3)) * magnitude + 2 * U * magnitude + TINY
        assert_within(found[token, :length], exact[token, :length], bound)


@by_dtype
def test_index_scores_of_nothing_positive_are_plus_zero(dtype: torch.dtype) -> None:
    keys = -Inputs("negative").uniform(20, 8).to(dtype)
    cache, table = paged([keys], 4)
    q = torch.ones(2, 3, 8, dtype=dtype)
    for sign in (1.0, -1.0):
        w = torch.full((2, 3), sign)
        found = call(ops.index_scores, q, w, cache, context(table, [0, 0], [19, 20]), 1.0)
        assert same(found[1], torch.zeros(20))


@by_dtype
@pytest.mark.parametrize("k", [1, 16, 33, 600])
def test_dsa_select_is_topk_of_the_scores(dtype: torch.dtype, k: int) -> None:
    """Half of the queries score nothing above 0: their rows are cut inside a plateau."""
    inputs = Inputs("select")
    cache, table = paged([inputs.normal(n, 16, dtype=dtype) for n in (600, 30)], 8)
    q, w = inputs.normal(20, 4, 16, dtype=dtype), inputs.normal(20, 4)
    q[::2] = 0
    lengths = [*range(590, 601), *range(22, 31)]
    where = context(table, [0] * 11 + [1] * 9, lengths)
    scores = call(ops.index_scores, q, w, cache, where, 0.3)
    wanted = call(ops.topk, scores, where.lengths, k)
    found = call(ops.dsa_select, q, w, cache, where, 0.3, k)
    assert same(found, wanted)
    for row in range(0, 20, 2):
        expected = list(range(min(k, lengths[row])))
        assert found[row].tolist() == expected + [-1] * (k - len(expected))


# --- specials that hold for many ops ---


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
