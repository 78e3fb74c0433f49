"""Fresh packages, found by the registry of this process for one test."""

import importlib
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from generated import Make, Package, enter

from glm5_hal.porting.skeleton import Base, write

_NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith("GLM5_HAL_") or name == "CI":
            monkeypatch.delenv(name)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Write a package and put it on the path; names differ, so that no import meets another's."""
    made: list[Package] = []
    inherited = [path for path in [os.environ.get("PYTHONPATH")] if path]

    def package(base: Base = Base.BLANK) -> Package:
        name = f"fresh{next(_NUMBERS)}"
        root, _ = write(name, base, tmp_path / name)
        found = Package(name, root)
        monkeypatch.syspath_prepend(str(enter(found)))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(found.root / "src"), *inherited]))
        importlib.invalidate_caches()
        made.append(found)
        return found

    yield package
    for name in [*sys.modules]:
        if any(name.startswith(f"glm5_hal_{package.name}") for package in made):
            del sys.modules[name]
