"""Attention of the CPU backend against the references, and what it must not depend on."""

from typing import Any

import pytest
import torch
from error_bounds import ROUNDOFF, U, assert_within, gamma, rounded
from op_inputs import Inputs, by_dtype, call, context, paged, reference
from op_inputs import same_bytes as same
from torch import Tensor

from glm5_hal import Cache, PagedContext, WeightRole, ops


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
    query: Tensor, rows: Tensor, scale: float, exact: Tensor, latent: int, dtype: torch.dtype
) -> Tensor:
    """On one token's result [H, C], before its rounding.

    Weights may be rounded to `dtype` before they multiply the rows, as ATTENTION-1 says.

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
    narrowed = ROUNDOFF[dtype] if dtype == torch.bfloat16 else 0.0
    spread = weights @ rows[:, :latent].abs()
    return (2.1 * relative + narrowed) * spread + U * exact.abs()


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
        error = attention_bound(query[token], rows, 0.2, exact[token], case.latent, dtype)
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
        inner = attention_bound(largest, rows.abs(), 0.2, content, latent, dtype)
        middle = (torch.expm1(2 * shift) + r) * content + 2 * inner
        spread = torch.einsum("hc,hvc->hv", content + middle, v.abs())
        error = torch.einsum("hc,hvc->hv", middle, v.abs()) + gamma(latent) * spread
        assert_within(found[token], exact[token], rounded(error, exact[token], dtype))
