"""Index scores and selection of rows on the CPU backend."""

import pytest
import torch
from error_bounds import TINY, U, assert_within, gamma
from op_inputs import Inputs, by_dtype, call, context, paged, reference
from op_inputs import same_bytes as same

from glm5_hal import ops


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
