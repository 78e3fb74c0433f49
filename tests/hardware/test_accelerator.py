"""The model on the accelerator that GLM5_HAL_BACKEND names, against the CPU; for hardware only.

GLM5_HAL_BACKEND=cuda pytest -m hardware tests/hardware
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from glm5_hal import open_runtime
from glm5_hal.model.config import ModelConfig
from glm5_hal.model.decode import Decoder
from glm5_hal.model.generate import sequence_logits
from glm5_hal.model.glm5 import GLM5
from glm5_hal.model.kv_cache import KVCache
from glm5_hal.model.load import load_model
from glm5_hal.model.make_checkpoint import make_checkpoint

pytestmark = pytest.mark.hardware

LENGTHS = (65, 40, 23, 17, 9, 5, 2, 1)
VOCAB = 4096


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("mid") / "mid"
    make_checkpoint(ModelConfig.load("mid"), directory, seed=0, dtype="bf16", mtp=False)
    return directory


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    made = torch.Generator().manual_seed(7)
    return [torch.randint(VOCAB, (n,), generator=made).tolist() for n in LENGTHS]


@pytest.fixture(scope="module")
def load(path: Path) -> Callable[[str], GLM5]:
    def make(numerics: str) -> GLM5:
        model = load_model(path, open_runtime(None, numerics))
        kind = model.runtime.backend.device.type
        assert kind != "cpu", "set GLM5_HAL_BACKEND to an accelerator"
        return model

    return make


@pytest.fixture(scope="module")
def exact(load: Callable[[str], GLM5]) -> GLM5:
    return load("exact")


@pytest.fixture(scope="module")
def expected(path: Path, prompts: list[list[int]]) -> str:
    """The CPU's."""
    return digest(sequence_logits(load_model(path, open_runtime("cpu", "exact")), prompts))


def digest(parts: list[Tensor]) -> str:
    return hashlib.sha256(b"".join(part.cpu().numpy().tobytes() for part in parts)).hexdigest()


def test_all_sequences_at_once(exact: GLM5, prompts: list[list[int]], expected: str) -> None:
    assert digest(sequence_logits(exact, prompts)) == expected


def test_one_at_a_time(exact: GLM5, prompts: list[list[int]], expected: str) -> None:
    assert digest([sequence_logits(exact, [prompt])[0] for prompt in prompts]) == expected


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks(exact: GLM5, prompts: list[list[int]], expected: str, chunk: int) -> None:
    assert digest(sequence_logits(exact, prompts, chunk=chunk)) == expected


def test_every_table_of_tiles(exact: GLM5, prompts: list[list[int]], expected: str) -> None:
    backend = exact.runtime.backend
    try:
        for mode in backend.modes():
            backend.use_mode(mode)
            assert digest(sequence_logits(exact, prompts)) == expected, mode
    finally:
        backend.use_mode(backend.modes()[0])


def steps(model: GLM5, recorded: bool, count: int = 70) -> list[Tensor]:
    """Hidden states of decode steps of two sequences, past the end of a page."""
    cache = KVCache(model.config, model.runtime, tokens=300, sequences=2, dtype=model.dtype)
    handles = [cache.add(), cache.add()]
    model.forward(cache.append([(handles[0], [5] * 40), (handles[1], [7] * 3)]), cache)
    decoder = Decoder(model, cache, recorded=recorded)
    return [
        decoder.hidden(cache.append([(handle, [token]) for handle in handles])).cpu()
        for token in range(count)
    ]


@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_recorded_steps_change_no_bit(load: Callable[[str], GLM5], numerics: str) -> None:
    model = load(numerics)
    eager, recorded = steps(model, False), steps(model, True)
    for place, (one, other) in enumerate(zip(eager, recorded, strict=True)):
        assert torch.equal(one.view(torch.int16), other.view(torch.int16)), place


@contextmanager
def busy(device: torch.device) -> Iterator[None]:
    """Products on a stream of their own, for as long as the block runs."""
    stop = threading.Event()

    def work() -> None:
        x = torch.randn(2048, 2048, device=device)
        with torch.Stream(device=device):
            while not stop.is_set():
                x = (x @ x).clamp(-1, 1)
                torch.accelerator.synchronize(device)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_under_load(exact: GLM5, prompts: list[list[int]], expected: str) -> None:
    with busy(exact.runtime.backend.device):
        for _ in range(3):
            assert digest(sequence_logits(exact, prompts)) == expected
