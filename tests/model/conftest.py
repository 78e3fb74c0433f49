"""Small models on the CPU backend, made where a test needs one."""

import json
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from glm5_hal import Runtime, open_runtime, philox
from glm5_hal.model.checkpoint import Storage
from glm5_hal.model.config import ModelConfig
from glm5_hal.model.glm5 import GLM5
from glm5_hal.model.load import load_model
from glm5_hal.model.make_checkpoint import make_checkpoint


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small models gain nothing from threads, and on a busy machine threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    return open_runtime("cpu", "fast")


@pytest.fixture(scope="session")
def new_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a random checkpoint and returns its directory."""
    file = resources.files("glm5_hal.model") / "configs" / "tiny.json"
    tiny: dict[str, Any] = json.loads(file.read_text("utf-8"))

    def make(
        *,
        seed: int = 0,
        storage: Storage = "fp32",
        mtp: bool = True,
        edit: Callable[[dict[str, Tensor]], object] | None = None,
        **keys: object,
    ) -> Path:
        """`keys` of config.json differ from the bundled "tiny"; `edit` changes the tensors."""
        path = tmp_path_factory.mktemp("checkpoint") / "model"
        dtype = "float32" if storage == "fp32" else "bfloat16"
        published = tiny | {"dtype": dtype} | keys
        config = ModelConfig.from_dict(published)
        make_checkpoint(config, path, seed=seed, dtype=storage, mtp=mtp)
        # as it was published: lists of layer types are for the reader to derive
        (path / "config.json").write_text(json.dumps(published), "utf-8")
        if edit is not None:
            stored = load_file(path / "model.safetensors")
            tensors = {name: tensor.clone() for name, tensor in stored.items()}
            edit(tensors)
            save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        return path

    return make


@pytest.fixture(scope="session")
def random_ids() -> Callable[..., list[list[int]]]:
    """Random token ids: one list a length."""

    def make(*lengths: int, seed: int = 0, vocab: int = 512) -> list[list[int]]:
        stream = philox.stream_of("prompts of the tests")
        return [
            [int(i) % vocab for i in philox.uniform24(seed, stream, row << 16, length)]
            for row, length in enumerate(lengths)
        ]

    return make


@pytest.fixture(scope="session")
def tiny_path(new_checkpoint: Callable[..., Path]) -> Path:
    """The bundled "tiny" in fp32, with its MTP layer."""
    return new_checkpoint()


@pytest.fixture(scope="session")
def tiny(tiny_path: Path, runtime: Runtime) -> GLM5:
    return load_model(tiny_path, runtime)
