"""Exports of a small model; without the extra `onnx` the tests here are skipped."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from glm5_hal import open_runtime
from glm5_hal.conformance.families.judging import digest
from glm5_hal.model.config import ModelConfig
from glm5_hal.model.generate import sequence_logits
from glm5_hal.model.glm5 import GLM5
from glm5_hal.model.load import load_model
from glm5_hal.model.make_checkpoint import make_checkpoint


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """One thread for small models; what was set before comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith("GLM5_HAL_") or name == "CI":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled "tiny" in bf16 with two layers only; treat it as read-only."""
    path = tmp_path_factory.mktemp("onnx") / "tiny"
    small = replace(
        ModelConfig.load("tiny"),
        num_hidden_layers=2,
        indexer_types=("full", "shared"),
        mlp_layer_types=("dense", "sparse"),
    )
    make_checkpoint(small, path, seed=0, dtype="bf16")
    return path


@pytest.fixture(scope="session")
def exact_model(checkpoint: Path) -> GLM5:
    """The model that an exact export has to agree with."""
    return load_model(checkpoint, open_runtime("cpu", "exact"), mtp=False, positions=256)


@pytest.fixture(scope="session")
def exports(
    checkpoint: Path, exact_model: GLM5, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """An export in each profile, the exact one with its example."""
    from onnx_exports import FORMS, IDS

    from glm5_hal.model.onnx_export.export import Example, export

    (logits,) = sequence_logits(exact_model, [IDS])
    example = Example(tuple(IDS), digest(logits.unsqueeze(0)))
    folder, made = tmp_path_factory.mktemp("exports"), {}
    for name, form in FORMS.items():
        made[name] = folder / name
        export(checkpoint, made[name], form, example=example if name == "exact" else None)
        assert json.loads((made[name] / "manifest.json").read_text())["numerics"] == name
    return made
