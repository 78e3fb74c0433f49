"""Errors in the threads that the CPU's kernels share."""

import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest


@pytest.mark.skipif(
    shutil.which("g++") is None, reason="no g++: then there are no kernels, and no threads of ours"
)
def test_the_lowest_items_error_leaves_a_region(tmp_path: Path) -> None:
    sources = Path(str(files("glm5_hal.kernels.cpu")))
    here = Path(__file__).with_name("pool_errors.cpp")
    program = tmp_path / "pool_errors"
    command = ["g++", "-std=c++17", "-O1", "-pthread", "-I", str(sources)]
    subprocess.run([*command, str(here), str(sources / "pool.cpp"), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
