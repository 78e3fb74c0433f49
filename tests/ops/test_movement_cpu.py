"""Embedding and cache of the CPU backend move rows as they are, to the byte."""

import pytest
import torch
from op_inputs import Inputs, by_dtype, call, empty_cache, kept
from op_inputs import same_bytes as same

from glm5_hal import WeightRole, ops


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
