"""Generated packages as their users have them: installed by pip, typed, with their own tests."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from generated import TOPK, Package, hal

from glm5_hal.porting.skeleton import Base, write

NAME = "fresh_chip"
ROOMS = ("backends", "conformance", "kernels", "model")
"""Folders that are installed below glm5_hal and lie beside it in a checkout."""
pytestmark = pytest.mark.slow


def run(command: list[str], folder: Path, **environ: str) -> str:
    """Output of a program, which must succeed."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GLM5_HAL_")}
    clean |= {"OMP_NUM_THREADS": "1", **environ}
    done = subprocess.run(
        command, cwd=folder, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=Base, ids=lambda base: base.value)
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A package of each base; its library is built, its first op written."""
    root, _ = write(NAME, request.param, tmp_path_factory.mktemp("package") / "package")
    made = Package(NAME, root)
    if request.param is Base.C_ABI:
        # the other bases need no compiler and still run
        if shutil.which("gcc") is None or shutil.which("make") is None:
            pytest.skip("gcc and make are needed")
        run(["make", "-s", "CC=gcc"], made.source / "native")
    elif request.param is not Base.TRITON:
        made.write("topk", TOPK)
    return made


@pytest.fixture(scope="module")
def installed(package: Package, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip has put it."""
    source = tmp_path_factory.mktemp("source") / "package"
    shutil.copytree(package.root, source)  # building leaves files behind
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--no-compile"]
    run([*pip, *offline, "--target", str(target), str(source)], source)
    return target


def test_it_is_selectable_when_installed(package: Package, installed: Path) -> None:
    done = hal("plan", "--backend", NAME, path=installed)
    if (package.source / "tiles.yaml").exists():
        assert done.returncode == 3
        assert f"torch_{NAME} is not installed" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        (line,) = (line for line in done.stdout.splitlines() if line.startswith("topk "))
        assert line.split()[1] == "native"


def test_its_own_tests_pass(package: Package, installed: Path) -> None:
    said = run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        package.root,
        PYTHONPATH=str(installed),
    )
    waiting = (package.source / "tiles.yaml").exists()
    assert ("1 passed, 2 skipped" if waiting else "3 passed") in said


def test_it_is_typed_as_strictly_as_this_project(
    package: Package, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pytest.importorskip("mypy")
    site = tmp_path / "site"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("glm5_hal", *(f"glm5_hal.{room}" for room in ROOMS)):
        (folder,) = importlib.import_module(name).__path__[:1]
        target = site.joinpath(*name.split("."))
        shutil.copytree(folder, target, ignore=ignored, dirs_exist_ok=True)
    check = [sys.executable, "-m", "mypy", "--strict", "--follow-imports", "silent"]
    check += ["--config-file", str(Path(__file__).parents[2] / "pyproject.toml")]
    check += ["--cache-dir", str(tmp_path_factory.getbasetemp() / "mypy")]
    sources = [str(path) for path in package.root.rglob("*.py")]
    run([*check, *sources], tmp_path, MYPYPATH=f"{site}{os.pathsep}{package.root / 'src'}")
