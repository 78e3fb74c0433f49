"""Packs, made once; without the extra `onnx` the tests here are skipped."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """One thread for small calls; what was set before comes back."""
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
def packs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A quick pack of some ops in each profile; treat them as read-only."""
    from onnx_packed import OPS, call

    folder, made = tmp_path_factory.mktemp("packs"), {}
    for numerics, ops in OPS.items():
        made[numerics] = folder / numerics
        done = call("export-onnx", made[numerics], "--quick", "--numerics", numerics, "--ops", ops)
        assert done.exit_code == 0, done.output
    return made


@pytest.fixture(scope="session")
def outputs(packs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What ONNX Runtime computes of each pack; treat them as read-only."""
    from onnx_packed import run_pack

    folder, made = tmp_path_factory.mktemp("outputs"), {}
    for numerics, pack in packs.items():
        made[numerics] = folder / numerics
        done = run_pack(pack, made[numerics])
        assert done.returncode == 0, done.stdout + done.stderr
    return made


@pytest.fixture
def pack(packs: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the exact pack to change."""
    return Path(shutil.copytree(packs["exact"], tmp_path / "pack"))


@pytest.fixture
def results(outputs: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the exact outputs to change."""
    return Path(shutil.copytree(outputs["exact"], tmp_path / "results"))
