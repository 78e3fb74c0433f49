"""The mid configuration in the exact profile: one digest, whatever the circumstances."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from glm5_hal import open_runtime
from glm5_hal.model.config import ModelConfig
from glm5_hal.model.generate import sequence_logits
from glm5_hal.model.glm5 import GLM5
from glm5_hal.model.kv_cache import KVCache
from glm5_hal.model.load import load_model
from glm5_hal.model.make_checkpoint import make_checkpoint
from glm5_hal.model.ranks import Ranks, Threads

LENGTHS = (65, 40, 23, 17, 9, 5, 2, 1)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("mid") / "mid"
    make_checkpoint(ModelConfig.load("mid"), directory, seed=0, dtype="bf16", mtp=False)
    return directory


@pytest.fixture(scope="module")
def model(path: Path) -> GLM5:
    return load_model(path, open_runtime("cpu", "exact"))


@pytest.fixture(scope="module")
def prompts(random_ids: Callable[..., list[list[int]]]) -> list[list[int]]:
    return random_ids(*LENGTHS, vocab=4096)


def digest(logits: list[Tensor]) -> str:
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in logits)).hexdigest()


@pytest.fixture(scope="module")
def expected(model: GLM5, prompts: list[list[int]]) -> str:
    found = digest(sequence_logits(model, prompts))
    print(f"\nmid, {sum(LENGTHS)} tokens: {found}")
    return found


def test_batch_of_one(model: GLM5, prompts: list[list[int]], expected: str) -> None:
    assert digest([sequence_logits(model, [prompt])[0] for prompt in prompts]) == expected


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks(model: GLM5, prompts: list[list[int]], expected: str, chunk: int) -> None:
    assert digest(sequence_logits(model, prompts, chunk=chunk)) == expected


def test_decode(model: GLM5, prompts: list[list[int]], expected: str) -> None:
    """Half of each sequence as a prefill, then one token at a time, all sequences together."""
    cache = KVCache(
        model.config, model.runtime, tokens=sum(LENGTHS), sequences=len(LENGTHS), dtype=model.dtype
    )
    handles = [cache.add() for _ in prompts]
    parts: list[list[Tensor]] = [[] for _ in prompts]
    pieces = [prompt[: (len(prompt) + 1) // 2] for prompt in prompts]
    done = [0] * len(prompts)
    while any(pieces):
        rows = [row for row, piece in enumerate(pieces) if piece]
        step = cache.append([(handles[row], pieces[row]) for row in rows])
        logits = model.logits(model.forward(step, cache))
        for row, part in zip(rows, logits.split(step.counts), strict=True):
            parts[row].append(part)
            done[row] += len(pieces[row])
        pieces = [prompt[at : at + 1] for prompt, at in zip(prompts, done, strict=True)]
    assert digest([torch.cat(part) for part in parts]) == expected


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(model: GLM5, prompts: list[list[int]], expected: str, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert digest(sequence_logits(model, prompts)) == expected
    finally:
        torch.set_num_threads(before)


def test_every_instruction_set(model: GLM5, prompts: list[list[int]], expected: str) -> None:
    backend = model.runtime.backend
    try:
        for mode in backend.modes():
            backend.use_mode(mode)
            assert digest(sequence_logits(model, prompts)) == expected, mode
    finally:
        for mode in backend.modes()[:1]:
            backend.use_mode(mode)


@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_ranks(path: Path, prompts: list[list[int]], expected: str, size: int) -> None:
    runtime = open_runtime("cpu", "exact")

    def work(ranks: Ranks) -> str:
        return digest(sequence_logits(load_model(path, runtime, ranks=ranks), prompts))

    assert Threads(size).run(work) == [expected] * size


@pytest.mark.parametrize("backend", ["cpu-limbs"])
def test_another_implementation(
    path: Path, prompts: list[list[int]], expected: str, backend: str
) -> None:
    model = load_model(path, open_runtime(backend, "exact"))
    assert digest(sequence_logits(model, prompts)) == expected
