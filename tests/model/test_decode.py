"""Recorded decode steps: the same bits as steps that run as they come, in few recordings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glm5_hal import open_runtime
from glm5_hal.model.decode import Decoder
from glm5_hal.model.generate import generate
from glm5_hal.model.glm5 import GLM5
from glm5_hal.model.kv_cache import PAGE_SIZE, KVCache
from glm5_hal.model.load import load_model

VOCAB = 64
SMALL = {
    "vocab_size": VOCAB,
    "num_hidden_layers": 2,
    "index_topk": 16,
    "eos_token_id": [VOCAB - 1],
    "pad_token_id": VOCAB - 1,
}


class Replays:
    """Stands in for a backend's `record`: a replay runs the step again, on what it finds."""

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0

    def __call__(self, step: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1
        step()

        def replay() -> None:
            self.replayed += 1
            step()

        return replay


@pytest.fixture(scope="module", params=["fast", "exact"])
def model(request: pytest.FixtureRequest, new_checkpoint: Callable[..., Path]) -> GLM5:
    path = new_checkpoint(**SMALL)
    return load_model(path, open_runtime("cpu", request.param))


@pytest.fixture
def replays(model: GLM5, monkeypatch: pytest.MonkeyPatch) -> Replays:
    made = Replays()
    monkeypatch.setattr(model.runtime.backend, "record", made)
    return made


def _cache(model: GLM5, sequences: int) -> KVCache:
    return KVCache(
        model.config, model.runtime, tokens=600, sequences=sequences, dtype=model.dtype, mtp=False
    )


def test_recorded_steps_have_the_bits_of_steps_that_run_as_they_come(
    model: GLM5, replays: Replays, random_ids: Callable[..., list[list[int]]]
) -> None:
    prompts = random_ids(60, 7, vocab=VOCAB)
    hidden: dict[bool, list[torch.Tensor]] = {}
    for recorded in (True, False):
        cache = _cache(model, len(prompts))
        handles = [cache.add() for _ in prompts]
        model.forward(cache.append(list(zip(handles, prompts, strict=True))), cache)
        decoder = Decoder(model, cache, recorded=recorded)
        hidden[recorded] = [
            decoder.hidden(cache.append([(handle, [token]) for handle in handles])).clone()
            for token in range(10)  # the first sequence grows into its second page
        ]
    assert torch.equal(torch.stack(hidden[True]), torch.stack(hidden[False]))
    assert replays.recorded == 2  # for one page, and for two
    assert replays.replayed == 10


def test_pages_are_rounded_up_to_a_power_of_two(model: GLM5, replays: Replays) -> None:
    cache = _cache(model, 1)
    handle = cache.add()
    decoder = Decoder(model, cache)
    for length in (2 * PAGE_SIZE, 3 * PAGE_SIZE, 4 * PAGE_SIZE):
        model.forward(cache.append([(handle, [1] * (length - cache.length(handle)))]), cache)
        decoder.hidden(cache.append([(handle, [2])]))
    assert replays.recorded == 2  # for three and four pages, and for five


@pytest.mark.parametrize("speculative", [0, 2])
def test_the_text_is_the_same_recorded_and_not(
    model: GLM5,
    replays: Replays,
    random_ids: Callable[..., list[list[int]]],
    speculative: int,
) -> None:
    def text(recorded: bool) -> list[Any]:
        emitted = generate(
            model,
            random_ids(62, 9, 3, vocab=VOCAB),
            max_new_tokens=6,
            speculative=speculative,
            stop=(),
            recorded=recorded,
        )
        return [(part.sequence, part.tokens) for part in emitted]

    with_recordings = text(True)
    assert replays.replayed >= 2
    replayed = replays.replayed
    assert text(False) == with_recordings
    assert replays.replayed == replayed


def test_a_backend_that_records_nothing_runs_every_step(
    model: GLM5, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.runtime.backend, "record", lambda step: None)
    cache = _cache(model, 1)
    step = cache.append([(cache.add(), [1, 2, 3])])
    assert Decoder(model, cache).hidden(step).shape == (3, model.config.hidden_size)


def test_a_step_that_is_watched_is_not_replayed(
    model: GLM5, replays: Replays, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        model.runtime, "observers", [lambda op, args, kwargs, result: seen.append(op.name)]
    )
    cache = _cache(model, 1)
    decoder, handle = Decoder(model, cache), cache.add()
    for token in range(3):
        decoder.hidden(cache.append([(handle, [token])]))
    assert seen.count("embedding") == 3
    assert replays.recorded == 0


def test_what_the_backend_itself_records_has_the_same_bits(
    model: GLM5, random_ids: Callable[..., list[list[int]]]
) -> None:
    """Whatever `record` the CPU has here: tapes of the compiled kernels, or none."""

    def run(recorded: bool) -> list[torch.Tensor]:
        prompts = random_ids(60, 7, vocab=VOCAB)
        cache = _cache(model, len(prompts))
        handles = [cache.add() for _ in prompts]
        model.forward(cache.append(list(zip(handles, prompts, strict=True))), cache)
        decoder = Decoder(model, cache, recorded=recorded)
        return [
            decoder.hidden(cache.append([(handle, [token]) for handle in handles])).clone()
            for token in range(20)
        ]

    assert torch.equal(torch.stack(run(True)), torch.stack(run(False)))
