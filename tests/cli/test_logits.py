"""`logits`: values, ragged batches, traces, and files that are whole or not there."""

import os
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from cli_names import Call, Ids
from safetensors import safe_open
from safetensors.torch import load_file

from glm5_hal import open_runtime
from glm5_hal.cli import loading
from glm5_hal.model.generate import sequence_logits
from glm5_hal.model.load import load_model

LENGTHS = [40, 23]
RAGGED = [[(7 * row + 3 * place) % 500 for place in range(n)] for row, n in enumerate(LENGTHS)]


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights may be loaded: what is wrong shows before that."""
    monkeypatch.delattr(loading, "load")


def names(path: Path) -> set[str]:
    return {file.name for file in path.iterdir()}


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.view(torch.int32), b.view(torch.int32))


def test_logits_and_traces_of_a_ragged_batch_are_those_of_each_sequence(
    call: Call, checkpoint: Path, ids: Ids, tmp_path: Path
) -> None:
    out, trace = tmp_path / "out.safetensors", tmp_path / "trace.safetensors"
    result = call(
        *("logits", checkpoint, "--input-ids", ids(RAGGED), "--chunk", 9),
        *("--out", out, "--trace", trace),
    )
    assert result.exit_code == 0
    line = rf"wrote {re.escape(str(out))}: logits \[2, 40, 512\], sha256 [0-9a-f]{{64}}"
    assert re.fullmatch(line, result.stdout.splitlines()[0])
    found, seen = load_file(out), load_file(trace)
    assert found["lengths"].tolist() == seen["lengths"].tolist() == LENGTHS
    assert found["lengths"].dtype == torch.int32
    assert found["logits"].isnan().any(-1).sum(-1).tolist() == [0, 40 - 23]

    model = load_model(checkpoint, open_runtime("cpu"))
    for row, (sequence, length) in enumerate(zip(RAGGED, LENGTHS, strict=True)):
        alone: dict[str, torch.Tensor] = {}
        (expected,) = sequence_logits(model, [sequence], probe=alone.__setitem__)
        assert same_bytes(found["logits"][row, :length], expected)
        assert seen.keys() == alone.keys() | {"lengths"}
        for name, value in alone.items():
            kept = seen[name][row, :length]
            if name.endswith("index_scores_masked"):
                assert kept[:, length:].isneginf().all()
                kept = kept[:, :length].contiguous()
            assert same_bytes(kept, value), name
            behind = seen[name][row, length:]
            assert (behind.isnan() if behind.is_floating_point() else behind == -1).all(), name


def test_a_trace_names_every_layer(call: Call, checkpoint: Path, ids: Ids, tmp_path: Path) -> None:
    trace = tmp_path / "trace.safetensors"
    call(
        "logits", checkpoint, "--input-ids", ids([1, 2]), "--out", tmp_path / "o", "--trace", trace
    )
    shapes = {name: list(value.shape) for name, value in load_file(trace).items()}
    assert shapes["embed"] == shapes["final_norm"] == [1, 2, 128]
    for layer in range(2):
        assert shapes[f"layer{layer}.out"] == [1, 2, 128]
        assert shapes[f"layer{layer}.topk_indices"] == [1, 2, 16]
    assert shapes["layer0.index_scores_masked"] == [1, 2, 2]
    assert shapes["layer1.router_indices"] == [1, 2, 2]


def test_metadata_says_what_was_run(call: Call, checkpoint: Path, ids: Ids, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    options = ("--dtype", "bf16", "--latent-eps", 1e-6, "--backend", "cpu")
    result = call("logits", checkpoint, "--input-ids", ids([1, 2]), "--out", out, *options)
    assert result.exit_code == 0
    with safe_open(out, framework="pt") as file:
        assert file.metadata() == {
            "plan_hash": open_runtime("cpu").plan.hash,
            "backend": "cpu:0",
            "numerics": "fast",
            "device": "cpu",
            "dtype": "bfloat16",
            "latent_eps": "1e-06",
        }
    assert load_file(out)["logits"].dtype == torch.float32


def test_a_file_is_replaced_through_a_link(
    call: Call, checkpoint: Path, ids: Ids, tmp_path: Path
) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("before")
    link.symlink_to(target)
    assert call("logits", checkpoint, "--input-ids", ids([1]), "--out", link).exit_code == 0
    assert link.is_symlink()
    assert load_file(target)["lengths"].tolist() == [1]
    assert names(tmp_path) == {"target", "link", "ids.json"}


def test_a_failed_write_leaves_what_was_there(
    call: Call, checkpoint: Path, ids: Ids, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    out.write_text("before")
    monkeypatch.setattr(safetensors.torch, "save_file", full)
    result = call("logits", checkpoint, "--input-ids", ids([1]), "--out", out)
    assert result.exit_code == 1
    assert f"{out} was not written" in result.stderr
    assert "No space left on device" in result.stderr
    assert out.read_text() == "before"
    assert names(tmp_path) == {"out", "ids.json"}


@pytest.mark.usefixtures("unloaded")
class TestMistakes:
    @pytest.mark.parametrize("option", ["--out", "--trace"])
    def test_paths(
        self, call: Call, checkpoint: Path, ids: Ids, tmp_path: Path, option: str
    ) -> None:
        (tmp_path / "file").write_text("")
        good = ("--out", tmp_path / "good") if option == "--trace" else ()
        for path, message in (
            (tmp_path / "none" / "out", "No such file or directory"),
            (tmp_path / "file" / "out", "Not a directory"),
            (tmp_path, "not a regular file"),
            (Path(os.devnull), "not a regular file"),
        ):
            result = call("logits", checkpoint, "--input-ids", ids([1]), *good, option, path)
            assert result.exit_code == 2
            assert str(path) in result.stderr
            assert message in result.stderr
        assert names(tmp_path) == {"file", "ids.json"}

    @pytest.mark.skipif(
        not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
    )
    def test_a_read_only_directory(
        self, call: Call, checkpoint: Path, ids: Ids, tmp_path: Path
    ) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        result = call("logits", checkpoint, "--input-ids", ids([1]), "--out", closed / "out")
        assert result.exit_code == 2
        assert "Permission denied" in result.stderr

    def test_one_file_for_two(self, call: Call, checkpoint: Path, ids: Ids, tmp_path: Path) -> None:
        out = tmp_path / "out"
        result = call(
            *("logits", checkpoint, "--input-ids", ids([1]), "--out", out, "--trace", out)
        )
        assert result.exit_code == 2
        assert "name two files" in result.stderr

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([], "holds no sequence"),
            ([[600]], "token id 600 at place 0"),
            ([[1] * 4097], "4097 tokens; the model's longest sequence (max_position_embeddings)"),
        ],
    )
    def test_ids(
        self,
        call: Call,
        checkpoint: Path,
        ids: Ids,
        tmp_path: Path,
        content: object,
        message: str,
    ) -> None:
        out = tmp_path / "out"
        result = call("logits", checkpoint, "--input-ids", ids(content), "--out", out)
        assert result.exit_code == 2
        assert message in result.stderr
        assert names(tmp_path) == {"ids.json"}
