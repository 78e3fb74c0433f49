"""Several ranks give the bytes of one: as threads here, as processes in the tests of the CLI."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from glm5_hal import Runtime, open_runtime
from glm5_hal.conformance.compare import first_difference
from glm5_hal.model.generate import Sampling, generate, sequence_logits
from glm5_hal.model.glm5 import GLM5
from glm5_hal.model.load import load_model
from glm5_hal.model.ranks import ALONE, RankError, Ranks, Threads, span, spans

LENGTHS = (17, 5, 1)


@pytest.fixture(scope="module")
def exact() -> Runtime:
    return open_runtime("cpu", "exact")


@pytest.fixture(scope="module", params=["bf16", "fp32"])
def path(request: pytest.FixtureRequest, new_checkpoint: Callable[..., Path]) -> Path:
    return new_checkpoint(storage=request.param)


@pytest.fixture(scope="module")
def alone(path: Path, exact: Runtime, random_ids: Callable[..., list[list[int]]]) -> list[Tensor]:
    return sequence_logits(load_model(path, exact), random_ids(*LENGTHS))


@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_logits_have_the_bytes_of_one_rank(
    size: int,
    path: Path,
    exact: Runtime,
    alone: list[Tensor],
    random_ids: Callable[..., list[list[int]]],
) -> None:
    """Four heads, sixteen experts: three ranks hold unequal shares, of eight some hold no head."""

    def work(ranks: Ranks) -> list[Tensor]:
        return sequence_logits(load_model(path, exact, ranks=ranks), random_ids(*LENGTHS), chunk=7)

    for found in Threads(size).run(work):
        assert first_difference(tuple(alone), tuple(found)) is None


def test_generated_tokens_are_those_of_one_rank(
    tiny_path: Path, exact: Runtime, random_ids: Callable[..., list[list[int]]]
) -> None:
    def tokens(ranks: Ranks) -> list[tuple[int, tuple[int, ...]]]:
        model = load_model(tiny_path, exact, ranks=ranks)
        return _generated(model, random_ids(9, 3))

    one = tokens(ALONE)
    assert Threads(3).run(tokens) == [one] * 3


def _generated(model: GLM5, prompts: list[list[int]]) -> list[tuple[int, tuple[int, ...]]]:
    sampling = Sampling(0.9, 0.95, seed=5)
    emitted = generate(model, prompts, max_new_tokens=6, sampling=sampling, speculative=2, stop=())
    return [(piece.sequence, piece.tokens) for piece in emitted]


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("total", [0, 1, 4, 16, 17])
def test_spans_cover_everything_once(total: int, size: int) -> None:
    views = Threads(size).run(lambda ranks: ranks)
    parts = spans(total, views[0])
    assert [i for part in parts for i in range(total)[part]] == list(range(total))
    assert parts == [span(total, view) for view in views]
    assert max(p.stop - p.start for p in parts) - min(p.stop - p.start for p in parts) <= 1


def test_several_ranks_need_the_exact_profile(tiny_path: Path, runtime: Runtime) -> None:
    with pytest.raises(RankError, match=r"2 ranks in the fast profile.*GLM5_HAL_NUMERICS=exact"):
        Threads(2).run(lambda ranks: load_model(tiny_path, runtime, ranks=ranks))


def test_the_first_error_of_any_rank_is_raised_and_none_hangs() -> None:
    def work(ranks: Ranks) -> None:
        if ranks.rank == 1:
            raise KeyError("rank 1")
        ranks.maximum(torch.zeros(1, dtype=torch.int32))

    with pytest.raises(KeyError, match="rank 1"):
        Threads(3).run(work)
