"""Checkpoints whose rows of scores are cut inside plateaus, and the command line."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import planted_now
import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from glm5_hal import registry
from glm5_hal.cli import app
from glm5_hal.model.config import ModelConfig
from glm5_hal.model.make_checkpoint import make_checkpoint

Call = Callable[..., Result]
IDS = [[(7 * place * place + 3 * place) % 500 for place in range(40)], [5, 17, 5, 17, 5]]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of the caller's, and files that are written by default lie in `tmp_path`."""
    for name in [*os.environ]:
        if name.startswith("GLM5_HAL_") or name == "CI":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def plateaus(config: ModelConfig, path: Path) -> Path:
    """A random checkpoint with two indexer heads at work: a quarter of its scores are zeros."""
    make_checkpoint(config, path, seed=5, dtype="bf16", mtp=False)
    for file in path.glob("*.safetensors"):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if name.endswith("indexer.weights_proj.weight"):
                tensor[2:] = 0
        save_file(tensors, file, metadata={"format": "pt"})
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of four layers; treat it as read-only."""
    return plateaus(ModelConfig.load("tiny"), tmp_path_factory.mktemp("bisect") / "tiny")


@pytest.fixture(scope="session")
def mid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six layers of real widths; 16 positions are chosen, so that 40 tokens do not all fit."""
    config = replace(ModelConfig.load("mid"), index_topk=16)
    return plateaus(config, tmp_path_factory.mktemp("bisect") / "mid")


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    """Token ids of a long and a short sequence."""
    path = tmp_path / "ids.json"
    path.write_text(json.dumps(IDS))
    return path


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Register ``planted`` with a fault in a layer."""

    def choose(name: str, layer: int) -> None:
        planted_now.choose(name, layer)
        monkeypatch.setattr(registry, "entry_points", planted_now.found)

    return choose


@pytest.fixture
def call() -> Call:
    """Run `glm5-hal` with these arguments; an error without a message of its own is raised."""

    def invoke(*args: object) -> Result:
        result = CliRunner().invoke(app, [str(arg) for arg in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke
