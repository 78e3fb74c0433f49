"""A small model on disk, the command line, and reports that nobody had to measure."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from bench_names import Call
from typer.testing import CliRunner, Result

from glm5_hal.cli import app
from glm5_hal.model.config import ModelConfig
from glm5_hal.model.make_checkpoint import make_checkpoint


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith("GLM5_HAL_") or name == "CI":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two layers whose longest sequence is 64 tokens; treat it as read-only."""
    config = replace(
        ModelConfig.load("tiny"),
        num_hidden_layers=2,
        indexer_types=("full", "shared"),
        mlp_layer_types=("dense", "sparse"),
        n_routed_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=64,
    )
    path = tmp_path_factory.mktemp("bench") / "small"
    make_checkpoint(config, path, seed=0, dtype="bf16", mtp=False)
    return path


@pytest.fixture
def call() -> Call:
    """Run `glm5-hal` with these arguments; an error without a message of its own is raised."""

    def invoke(*args: object) -> Result:
        result = CliRunner().invoke(app, [str(arg) for arg in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke
