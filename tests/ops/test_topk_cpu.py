"""Top-k against a total order written in plain Python: the rows that break other selections."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_inputs import Inputs, call, same_bytes

from glm5_hal import ops

NAN, INF = math.nan, math.inf
STEP = 2.0**-23
"""From 1 to the next float32."""


def best(scores: Sequence[float], length: int, k: int) -> list[int]:
    """The k largest of the first `length`: NaN first, then by value, then by place; ascending."""
    rank = [(2, 0.0) if math.isnan(s) else (1, s + 0.0) for s in scores[:length]]
    chosen = sorted(range(length), key=lambda i: (-rank[i][0], -rank[i][1], i))[:k]
    return sorted(chosen) + [-1] * (k - len(chosen))


def check(rows: Sequence[Sequence[float]], lengths: Sequence[int], k: int) -> None:
    """One call on all rows, padded with NaN to one width."""
    width = max(map(len, rows))
    scores = torch.tensor([[*row, *[NAN] * (width - len(row))] for row in rows])
    found = call(ops.topk, scores.reshape(len(rows), width), torch.tensor(lengths).int(), k)
    assert found.dtype == torch.int32
    for row, length, got in zip(scores.tolist(), lengths, found.tolist(), strict=True):
        assert got == best(row, length, k)


ROWS = {
    "all equal": [0.5] * 40,
    "zeros of both signs": [0.0, -0.0] * 20,
    "plateau across the cut": [3.0, 0.0, 2.0, *[0.0] * 30, 1.0, 4.0, -1.0],
    "plateau at the end": [*[float(i) for i in range(9)], *[0.0] * 30],
    "plateau below zero": [-1.0] * 20 + [0.0] * 5 + [-1.0] * 15,
    "one NaN": [1.0] * 10 + [NAN] + [2.0] * 29,
    "several NaN": [NAN, 1.0, INF, NAN, -INF, NAN, 0.0] * 5,
    "all NaN": [NAN] * 40,
    "infinities": [INF, -INF, 3.4e38, -3.4e38] * 10,
    "all -Inf": [-INF] * 40,
    "next floats": [1.0, 1 + STEP, 1.0, 1 - STEP / 2, 1 + STEP, 1 + 2 * STEP] * 7,
    "smallest floats": [0.0, 1e-45, -1e-45, 2e-45, -0.0, 1.2e-38, -1.2e-38] * 6,
    "ascending": [float(i) for i in range(40)],
    "descending": [-float(i) for i in range(40)],
    "one": [7.0],
}


@pytest.mark.parametrize("k", [1, 2, 3, 16, 39, 40, 41, 60])
@pytest.mark.parametrize("name", ROWS)
def test_row(name: str, k: int) -> None:
    row = ROWS[name]
    check([row, row, row, row], [len(row), 0, len(row) // 2, 1], k)


@pytest.mark.parametrize("k", [1, 5, 64])
def test_all_rows_at_once(k: int) -> None:
    check(list(ROWS.values()), [len(row) for row in ROWS.values()], k)


@pytest.mark.parametrize("behind", [NAN, INF, -INF, 0.0, 1e30])
def test_what_stands_behind_the_length_is_never_seen(behind: float) -> None:
    scores = Inputs("behind").normal(6, 50)
    lengths = torch.tensor([0, 1, 7, 8, 9, 49], dtype=torch.int32)
    wanted = call(ops.topk, scores, lengths, 8)
    scores[torch.arange(50) >= lengths.unsqueeze(1)] = behind
    assert same_bytes(call(ops.topk, scores, lengths, 8), wanted)
    wider = torch.nn.functional.pad(scores, (0, 33), value=behind)
    assert same_bytes(call(ops.topk, wider, lengths, 8), wanted)


def test_edges() -> None:
    none = torch.zeros(2, dtype=torch.int32)
    assert call(ops.topk, torch.zeros(2, 0), none, 3).tolist() == [[-1] * 3] * 2
    assert call(ops.topk, torch.zeros(2, 4), none, 0).shape == (2, 0)
    assert call(ops.topk, torch.zeros(0, 4), none[:0], 3).shape == (0, 3)


@pytest.mark.parametrize(("columns", "k"), [(2048, 2048), (2049, 2048), (8192, 2048)])
def test_a_long_row_cut_inside_the_zeros(columns: int, k: int) -> None:
    """As an indexer gives them: sums of ReLUs, half of them exactly 0."""
    scores = torch.relu(Inputs("long", columns).normal(3, columns))
    scores[1] *= torch.arange(columns) % 4 == 0
    scores[2, : columns // 2] = NAN
    check(scores.tolist(), [columns, columns - 1, columns], k)


values = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, INF, -INF, NAN, 1 + STEP, 1e-45]),
    st.floats(width=32),
)
rows = st.lists(values, min_size=1, max_size=24)


@settings(derandomize=True, database=None, deadline=None, max_examples=150)
@given(rows=st.lists(rows, min_size=1, max_size=4), k=st.integers(0, 30), data=st.data())
def test_any_rows(rows: list[list[float]], k: int, data: st.DataObject) -> None:
    lengths = [data.draw(st.integers(0, len(row))) for row in rows]
    check(rows, lengths, k)
