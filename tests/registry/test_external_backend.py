"""A package that this repository does not know brings a backend: installing it is all it takes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from glm5_hal import open_runtime
from glm5_hal.contract import OPS, Kind
from glm5_hal.model.config import ModelConfig
from glm5_hal.model.generate import sequence_logits
from glm5_hal.model.load import load_model
from glm5_hal.model.make_checkpoint import make_checkpoint

SOURCE = Path(__file__).parents[1] / "external_backend"
SEQUENCES = [[(7 * i + 3) % 500 for i in range(40)], [1, 2, 3, 4, 5]]
"""The first is longer than the 16 positions that tiny selects."""

PROGRAM = """
import json, sys
import torch
from glm5_hal import open_runtime
from glm5_hal.model.generate import generate, sequence_logits
from glm5_hal.model.load import load_model

checkpoint, out, sequences = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
runtime = open_runtime()
model = load_model(checkpoint, runtime, positions=64)
torch.save(sequence_logits(model, sequences), out)
tokens = [step.tokens for step in generate(model, [sequences[1]], max_new_tokens=4)]
print(json.dumps({
    "plan": runtime.plan.to_dict(),
    "backend": type(runtime.backend).__module__,
    "weight": type(model.weights.layers[0].attention.q_a.data).__name__,
    "tokens": tokens,
}))
"""


def run(command: list[str], **environ: str) -> str:
    """Standard output of a program, which must succeed."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GLM5_HAL_")}
    done = subprocess.run(command, env={**clean, **environ}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built and installed into a directory of its own."""
    source, target = tmp_path_factory.mktemp("source") / "package", tmp_path_factory.mktemp("site")
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--no-compile"]
    run([*pip, *offline, "--target", str(target), str(source)])
    return target


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny") / "checkpoint"
    make_checkpoint(ModelConfig.load("tiny"), directory, seed=3, dtype="fp32")
    return directory


@pytest.fixture(scope="module")
def report(installed: Path, checkpoint: Path) -> dict[str, Any]:
    """What a program finds that names the backend in its environment and nowhere else."""
    out = installed.parent / "logits.pt"
    command = [sys.executable, "-c", PROGRAM, str(checkpoint), str(out), json.dumps(SEQUENCES)]
    shown: dict[str, Any] = json.loads(
        run(command, PYTHONPATH=str(installed), GLM5_HAL_BACKEND="demonstration")
    )
    return {**shown, "logits": torch.load(out)}


def test_the_plan_shows_whose_implementations_run(report: dict[str, Any]) -> None:
    plan = report["plan"]
    assert plan["backend"] == "demo"
    assert report["backend"] == "hal_demo_backend.backend"
    assert plan["versions"]["hal-demo-backend"] == "0.1.0"
    for name, op in OPS.items():
        shown = plan["ops"][name]
        if op.kind is Kind.PRIMITIVE:
            where = f"hal_demo_backend.backend.DemoBackend.{name}"
            assert shown == {"source": "native", "where": where}
        else:
            kinds = {Kind.COMPOSITE: "default", Kind.OPTIONAL: "unsupported"}
            assert shown["source"] == kinds[op.kind]


def test_its_weights_are_kept_in_its_own_form(report: dict[str, Any]) -> None:
    assert report["weight"] == "Transposed"


def test_the_model_is_the_same(report: dict[str, Any], checkpoint: Path) -> None:
    model = load_model(checkpoint, open_runtime("cpu"), positions=64)
    wanted = sequence_logits(model, SEQUENCES)
    for found, expected in zip(report["logits"], wanted, strict=True):
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 1e-5
        assert found.std() > 0.1
    assert sum(map(len, report["tokens"])) == 4


def test_without_the_package_the_name_is_unknown() -> None:
    with pytest.raises(ValueError, match="unknown backend 'demo'"):
        open_runtime("demo")
