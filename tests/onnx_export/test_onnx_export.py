"""Exported graphs: run by themselves, the same bytes, and what is refused."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx_exports import IDS, onnx
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from glm5_hal import Numerics, open_runtime
from glm5_hal.cli import app
from glm5_hal.kernels.onnx import Digits
from glm5_hal.kernels.onnx.prepare import prepared
from glm5_hal.model.generate import generate, sequence_logits
from glm5_hal.model.glm5 import GLM5
from glm5_hal.model.load import load_model
from glm5_hal.model.onnx_export import export as exporting
from glm5_hal.model.onnx_export.run_example import Model, digest, stacked

CPU = "CPUExecutionProvider"
LENGTHS = (9, 1, 70)
"""The last one fills a page and begins another."""
SEQUENCES = [[(17 * n + 3 * place) % 512 for place in range(n)] for n in LENGTHS]

BARE = """
import runpy, sys
for name in ("torch", "onnx", "glm5_hal", "ml_dtypes", "safetensors"):
    sys.modules[name] = None  # an import of it fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def call(*arguments: object) -> Result:
    """Run `glm5-hal`."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run_script(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The script beside the graphs, where nothing but onnxruntime and numpy can be imported."""
    command = [sys.executable, "-c", BARE, folder / "run_example.py", *arguments]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)


def opened(folder: Path, room: int = 128) -> Model:
    return Model(folder, CPU, len(SEQUENCES), room)


def test_the_script_runs_alone_and_confirms_the_digest(exports: dict[str, Path]) -> None:
    done = run_script(exports["exact"])
    assert done.returncode == 0, done.stderr
    assert "as manifest.json says" in done.stdout


def test_the_script_notices_other_bytes(exports: dict[str, Path], tmp_path: Path) -> None:
    for file in exports["exact"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["example"]["ids"][0] += 1
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    done = run_script(tmp_path)
    assert done.returncode == 1
    assert manifest["example"]["sha256"] in done.stdout


def test_a_provider_that_is_not_installed(exports: dict[str, Path]) -> None:
    done = run_script(exports["exact"], "--provider", "NoSuchExecutionProvider")
    assert done.returncode == 1
    assert "no NoSuchExecutionProvider" in done.stderr
    assert CPU in done.stderr


def test_exact_logits_are_the_models_to_the_bit(
    exports: dict[str, Path], exact_model: GLM5, tmp_path: Path
) -> None:
    logits = stacked(opened(exports["exact"]).prefill(SEQUENCES, 0), LENGTHS)
    for row, wanted in enumerate(sequence_logits(exact_model, SEQUENCES)):
        found = logits[row, : LENGTHS[row]]
        assert found.view(np.int32).tolist() == wanted.view(torch.int32).tolist()
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps(SEQUENCES))
    done = run_script(exports["exact"], "--ids", ids)
    assert digest(logits) in done.stdout


def test_pieces_pages_and_decoding_change_no_byte(exports: dict[str, Path]) -> None:
    sequences = [sequence[:9] for sequence in SEQUENCES if len(sequence) >= 9]
    whole = Model(exports["exact"], CPU, 2, 64).prefill(sequences, 0).reshape(2, 9, -1)
    other = Model(exports["exact"], CPU, 2, 192)
    other.table = np.array([[5, 1, 0], [2, 4, 3]], np.int32)
    first = other.prefill([s[:4] for s in sequences], 0).reshape(2, 4, -1)
    second = other.prefill([s[4:6] for s in sequences], 4).reshape(2, 2, -1)
    parts = [first, second]
    for place in range(6, 9):
        logits = other.decode([s[place] for s in sequences], [place, place])
        parts.append(logits.reshape(2, 1, -1))
    assert digest(np.concatenate(parts, 1)) == digest(whole)


def test_decoding_makes_the_models_tokens(exports: dict[str, Path], exact_model: GLM5) -> None:
    done = run_script(exports["exact"], "--generate", 5)
    made = json.loads(done.stdout.splitlines()[1])
    steps = generate(exact_model, [IDS], max_new_tokens=5, stop=())
    assert made == [[token for step in steps for token in step.tokens]]


def test_fast_logits_are_near(exports: dict[str, Path], checkpoint: Path) -> None:
    model = load_model(checkpoint, open_runtime("cpu", "fast"), mtp=False, positions=256)
    logits = stacked(opened(exports["fast"]).prefill(SEQUENCES, 0), LENGTHS)
    for row, wanted in enumerate(sequence_logits(model, SEQUENCES)):
        found = torch.from_numpy(logits[row, : LENGTHS[row]].copy())
        # a token whose experts or positions are tied within rounding may differ by more
        error = (found - wanted).abs().amax(-1) / wanted.abs().amax(-1)
        assert float(error.median()) < 2**-5


def test_the_weights_are_a_safetensors_file_the_graphs_point_into(
    exports: dict[str, Path],
) -> None:
    for name, folder in exports.items():
        tensors = load_file(folder / "weights.safetensors")
        content = (folder / "weights.safetensors").read_bytes()
        for graph in ("prefill", "decode"):
            model = onnx.load(str(folder / f"{graph}.onnx"), load_external_data=False)
            stored = [t for t in model.graph.initializer if t.external_data]
            assert {t.name for t in stored} == set(tensors), (name, graph)
            for tensor in stored:
                where = {entry.key: entry.value for entry in tensor.external_data}
                offset, length = int(where["offset"]), int(where["length"])
                wanted = tensors[tensor.name]
                assert offset % wanted.element_size() == 0
                bits = wanted.contiguous().flatten().view(torch.uint8).numpy().tobytes()
                assert content[offset : offset + length] == bits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_digits_are_those_that_a_runtime_makes(dtype: torch.dtype) -> None:
    from glm5_hal.backends.onnxruntime.engine import Engine

    rows = torch.randn(3, 40, 33, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows[0, 0, 0], rows[1] = torch.inf, 0.0
    made = Engine(Numerics.EXACT, CPU).prepare(rows)
    ours = prepared(rows, Numerics.EXACT)
    assert isinstance(made, Digits)
    assert isinstance(ours, Digits)
    for part in ("digits", "exponent", "finite"):
        assert torch.equal(getattr(made, part), getattr(ours, part))


def test_graphs_are_of_the_standard_and_the_manifest_lists_the_files(
    exports: dict[str, Path],
) -> None:
    for folder in exports.values():
        manifest = json.loads((folder / "manifest.json").read_text())
        for name, digest_ in manifest["files"].items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest_
        on_disk = {path.name for path in folder.iterdir()}
        assert on_disk == {*manifest["files"], "manifest.json"}
        for file in manifest["graphs"].values():
            model = onnx.load(str(folder / file), load_external_data=False)
            assert [(o.domain, o.version) for o in model.opset_import] == [("", 21)]
            assert not model.functions
            assert {node.domain for node in model.graph.node} == {""}


def test_a_newer_version_of_the_standard_gives_the_same_bytes(
    exports: dict[str, Path], checkpoint: Path, tmp_path: Path
) -> None:
    form = exporting.Form(Numerics.EXACT, opset=23, positions=256, digits="uint8")
    exporting.export(checkpoint, tmp_path / "new", form)
    found = Model(tmp_path / "new", CPU, 1, 64).prefill([IDS], 0)
    assert digest(found) == digest(Model(exports["exact"], CPU, 1, 64).prefill([IDS], 0))


# --- the command ---


def test_the_command_writes_what_the_logits_command_computes(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = call("export-onnx", checkpoint, tmp_path / "out", "--positions", 64)
    assert done.exit_code == 0, done.output
    example = json.loads((tmp_path / "out" / "manifest.json").read_text())["example"]
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps(example["ids"]))
    monkeypatch.setenv("GLM5_HAL_NUMERICS", "exact")
    again = call("logits", checkpoint, "--input-ids", ids, "--out", tmp_path / "l.safetensors")
    assert example["sha256"] in again.output


@pytest.mark.parametrize("opset", [17, 99])
def test_a_wrong_opset(opset: int, checkpoint: Path, tmp_path: Path) -> None:
    done = call("export-onnx", checkpoint, tmp_path / "out", "--opset", opset)
    assert done.exit_code == 2
    assert f"opset {opset}: the graphs can be written in versions 21 to" in done.output
    assert not (tmp_path / "out").exists()
    with pytest.raises(exporting.ExportError, match=f"opset {opset}"):
        exporting.export(checkpoint, tmp_path / "out", exporting.Form(opset=opset))


def test_a_directory_that_is_not_empty(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    done = call("export-onnx", checkpoint, tmp_path)
    assert done.exit_code == 2
    assert "is not empty" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_what_is_not_installed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec

    def find_spec(wanted: str, package: str | None = None) -> Any:
        return None if wanted == "onnx" else real(wanted, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    done = call("export-onnx", checkpoint, tmp_path / "out")
    assert done.exit_code == 3
    assert 'onnx, which is not installed: pip install "glm5-hal[onnx]"' in done.output


def test_nothing_is_left_of_an_export_that_failed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(exporting.checker, "check_model", fail)
    done = call("export-onnx", checkpoint, tmp_path / "out", "--no-example", "--positions", 64)
    assert done.exit_code == 1
    assert "was not written: no space left" in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_mid_to_the_bit(tmp_path: Path) -> None:
    assert call("make-checkpoint", "mid", tmp_path / "mid", "--no-mtp").exit_code == 0
    done = call("export-onnx", tmp_path / "mid", tmp_path / "out", "--positions", 256)
    assert done.exit_code == 0, done.output
    alone = run_script(tmp_path / "out")
    assert "as manifest.json says" in alone.stdout, alone.stderr
