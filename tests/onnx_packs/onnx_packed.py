"""Packs of a few ops, their outputs, and the command line."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from glm5_hal.cli import app

_WHY = "needs glm5-hal[onnx]"
pytest.importorskip("onnxruntime", reason=_WHY)
onnx = pytest.importorskip("onnx", reason=_WHY)

OPS = {
    "exact": "swiglu,cache_write,dsa_select,moe_combine,linear_limbs",
    "fast": "swiglu,topk,mla,moe_route",
}
"""Of each kind one: elements, moves, composites, indices, integers, two results."""


def call(*arguments: object) -> Result:
    """Run `glm5-hal conformance`."""
    return CliRunner().invoke(app, ["conformance", *map(str, arguments)])


def run_pack(pack: Path, results: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The pack's own script."""
    command = [sys.executable, str(pack / "run.py"), str(results), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)
