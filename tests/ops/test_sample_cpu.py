"""Sampling: the draw decides, ties go to the lowest id."""

import math
from collections import Counter

import pytest
import torch
from op_inputs import Inputs, call
from torch import Tensor

from glm5_hal import ops

LAST = 2**24 - 1


def sample(
    logits: Tensor, temperature: float, top_p: float = 1.0, draws: list[int] | None = None
) -> list[int]:
    """Ids for one row of logits and many draws, or many rows and none."""
    count = len(logits) if draws is None else len(draws)
    found = call(
        ops.sample,
        logits.expand(count, -1),
        torch.full((count,), temperature),
        torch.full((count,), top_p),
        torch.tensor(draws or [0] * count, dtype=torch.int32),
    )
    assert found.dtype == torch.int32
    ids: list[int] = found.tolist()
    return ids


def by_hand(logits: list[float], temperature: float, top_p: float, draw: int) -> int:
    """The definition, in plain numbers."""
    exact = [math.exp((x - max(logits)) / temperature) for x in logits]
    order = sorted(range(len(logits)), key=lambda i: (-exact[i], i))
    whole, before = math.fsum(exact), 0.0
    kept: list[int] = []
    for i in order:
        if kept and before >= top_p * whole:
            break
        kept.append(i)
        before += exact[i]
    target = (draw + 0.5) / 2**24 * math.fsum(exact[i] for i in kept)
    passed = 0.0
    for i in kept:
        passed += exact[i]
        if passed > target:
            return i
    return kept[-1]


@pytest.mark.parametrize(
    ("row", "winner"),
    [
        ([1.0, 3.0, 2.0, 3.0], 1),
        ([0.0, 0.0, 0.0], 0),
        ([-1.0, -0.0, 0.0], 1),
        ([-1.0, 0.0, -0.0], 1),
        ([-math.inf] * 3, 0),
        ([-math.inf, math.inf, math.inf], 1),
        ([1.0, 1.0 + 2**-23, 1.0 + 2**-23], 1),
        ([5.0], 0),
    ],
)
def test_greedy_takes_the_lowest_among_equals(row: list[float], winner: int) -> None:
    assert sample(torch.tensor([row]), 0.0, 0.5, [0, 7, LAST]) == [winner] * 3


def test_greedy_among_many() -> None:
    logits = torch.zeros(3, 154880)
    logits[1, 99_999] = 1
    logits[2, 100:] = 1
    assert sample(logits, 0.0) == [0, 99_999, 100]


def test_the_first_and_the_last_draw() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0]])
    assert sample(logits, 1.0, 1.0, [0, LAST]) == [1, 3]
    assert sample(logits, 1.0, 0.85, [0, LAST]) == [1, 2]


def test_equal_logits_stand_in_order_of_id() -> None:
    draws = [0, 2**21 - 1, 2**21, 2**23, LAST]
    assert sample(torch.zeros(1, 8), 0.7, 1.0, draws) == [0, 0, 1, 4, 7]


@pytest.mark.parametrize("top_p", [1e-30, 1e-6, 0.1])
def test_a_tiny_top_p_keeps_the_first_only(top_p: float) -> None:
    draws = [0, 12345, LAST]
    assert sample(torch.tensor([[0.0, 1.0, 1.0]]), 1.0, top_p, draws) == [1] * 3
    assert sample(torch.zeros(1, 9), 5.0, top_p, draws) == [0] * 3


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.49, 1), (0.51, 2), (0.74, 2), (0.76, 3), (0.99, 4), (1.0, 4)]
)
def test_top_p_keeps_those_before_which_less_has_accumulated(top_p: float, kept: int) -> None:
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    assert max(sample(logits, 1.0, top_p, [*range(0, 2**24, 2**15), LAST])) == kept - 1


def test_a_token_without_probability_is_never_drawn() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, -1e30, 0.0]])
    assert set(sample(logits, 1.0, 1.0, [0, 2**23 - 1, 2**23, LAST])) == {1, 4}


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_evenly_spaced_draws_give_the_probabilities(temperature: float) -> None:
    logits = torch.tensor([[1.0, -0.5, 2.0, 0.25, 1.0]])
    count = 2**10
    seen = Counter(sample(logits, temperature, 1.0, [i << 14 for i in range(count)]))
    for token, p in enumerate(torch.softmax(logits[0].double() / temperature, -1).tolist()):
        assert abs(seen[token] - count * p) <= 1


def test_against_the_definition() -> None:
    inputs = Inputs("sample")
    logits = inputs.normal(300, 20, scale=2)
    logits[::3] = logits[::3].round()  # ties
    temperature, top_p = inputs.uniform(300) * 2 + 0.05, inputs.uniform(300) * 0.99 + 0.01
    draws = inputs.integers(0, 2**24, 300)
    found = call(ops.sample, logits, temperature, top_p, draws).tolist()
    rows = zip(*(x.tolist() for x in (logits, temperature, top_p, draws)), strict=True)
    assert found == [by_hand(*row) for row in rows]


def test_rows_choose_for_themselves() -> None:
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    draws = torch.tensor([LAST, LAST, 0], dtype=torch.int32)
    heat, limit = torch.tensor([0.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 1.0])
    assert call(ops.sample, logits, heat, limit, draws).tolist() == [1, 0, 1]
