"""`matrix`: shown, written, and refused where a file of evidence is not what it was."""

import json
import lzma
import shutil
from pathlib import Path

import pytest
from cli_names import Call

from glm5_hal.conformance.matrix import runs
from glm5_hal.conformance.matrix.files import FOLDER
from glm5_hal.conformance.package import read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One committed package, to be changed."""
    target = tmp_path / "evidence" / "onnxruntime"
    target.mkdir(parents=True)
    shutil.copy(FOLDER / "onnxruntime" / "cpu-fast-quick.tar.xz", target)
    return tmp_path / "evidence"


def test_it_is_shown_and_written_alike(call: Call, folder: Path, tmp_path: Path) -> None:
    page, plain = tmp_path / "matrix.md", tmp_path / "matrix.json"
    shown = call("matrix", "--evidence", folder, "--out", page)
    assert shown.exit_code == 0
    assert "run on the CPU" in shown.stdout
    assert "cpu (exact, fast)" in shown.stdout.splitlines()[-1]
    assert "| onnxruntime | fast | run on the CPU | quick |" in page.read_text()
    document = json.loads(call("matrix", "--evidence", folder, "--json", "--out", plain).stdout)
    assert json.loads(plain.read_text()) == document
    (evidence,) = document["evidence"]
    assert (evidence["backend"], evidence["profile"]) == ("onnxruntime", "fast")
    assert {"backend": "onnxruntime", "profile": "exact"} in document["no evidence"]
    assert {"op", "aspect", "state", "passed", "judged"} == evidence["cells"][0].keys()


def test_a_package_is_added_from_wherever_it_lies(
    call: Call, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the committed package may be of fewer cases than there are by now
    monkeypatch.setattr(runs, "_outdated", lambda *_: set())
    empty = tmp_path / "empty"
    empty.mkdir()
    package = folder / "onnxruntime" / "cpu-fast-quick.tar.xz"
    added = call("matrix", "--evidence", empty, "--add", package)
    assert added.exit_code == 0
    assert added.stderr == f"added: {empty / 'onnxruntime' / package.name}\n"
    assert read(empty / "onnxruntime" / package.name).id == read(package).id


def test_an_altered_package_is_named_and_nothing_is_written(
    call: Call, folder: Path, tmp_path: Path
) -> None:
    package = folder / "onnxruntime" / "cpu-fast-quick.tar.xz"
    content = lzma.decompress(package.read_bytes())
    package.write_bytes(lzma.compress(content.replace(b'"status":"PASS"', b'"status":"FAIL"', 1)))
    page = tmp_path / "matrix.md"
    result = call("matrix", "--evidence", folder, "--out", page)
    assert result.exit_code == 1
    assert (
        "error: evidence onnxruntime/cpu-fast-quick.tar.xz: results.jsonl is not" in result.stderr
    )
    assert result.stdout == ""
    assert not page.exists()


def test_no_folder_is_said(call: Call, tmp_path: Path) -> None:
    result = call("matrix", "--evidence", tmp_path / "none")
    assert result.exit_code == 1
    assert "no folder of evidence" in result.stderr
