"""`params` and `make-checkpoint`."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_names import SMALL, Call

from glm5_hal.model.checkpoint import Checkpoint
from glm5_hal.model.config import ModelConfig
from glm5_hal.model.make_checkpoint import content_digest
from glm5_hal.model.params import parameter_table


def test_params_of_glm5_are_the_published_ones(call: Call) -> None:
    result = call("params", "glm5")
    assert result.exit_code == 0
    for number in ("743,911,218,432", "753,864,139,008", "39.88 B"):
        assert number in result.stdout
    document = json.loads(call("params", "glm5", "--json").stdout)
    assert document["total_without_mtp"] == 743_911_218_432
    assert document["total_with_mtp"] == 753_864_139_008
    assert sum(row["total"] for row in document["components"]) == 753_864_139_008
    assert all(row["per_unit"] * row["units"] == row["total"] for row in document["components"])


def test_params_reads_a_path(call: Call, checkpoint: Path) -> None:
    found = json.loads(call("params", checkpoint, "--json").stdout)
    assert found["total_with_mtp"] == parameter_table(SMALL).total
    assert call("params", checkpoint / "config.json", "--json").exit_code == 0


def test_an_unknown_configuration_lists_the_known_ones(call: Call) -> None:
    for command in (["params", "huge"], ["make-checkpoint", "huge", "there"]):
        result = call(*command)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert "huge: 1 problem" in result.stderr
        assert "tiny" in result.stderr


def test_a_wrong_configuration_names_the_key(call: Call, tmp_path: Path) -> None:
    config = ModelConfig.load("tiny").to_published_dict() | {"qk_head_dim": 33}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    result = call("params", path)
    assert result.exit_code == 2
    assert "qk_head_dim is 33: expected qk_nope_head_dim + qk_rope_head_dim = 24 + 8" in (
        result.stderr
    )


@pytest.mark.parametrize("dtype", ["bf16", "fp8"])
def test_make_checkpoint_says_what_it_wrote(call: Call, tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "new"
    result = call("make-checkpoint", "tiny", path, "--seed", 3, "--dtype", dtype, "--no-mtp")
    assert result.exit_code == 0
    with Checkpoint.open(path) as written:
        assert written.storage == dtype
        assert not written.has_mtp
        for part in (
            str(path),
            f"tiny, {dtype}, seed 3, without MTP layer",
            f"{len(written.tensors)} tensors in 1 file,",
            f"{written.nbytes:,} bytes",
        ):
            assert part in result.stdout


def test_the_seed_decides(call: Call, checkpoint: Path, tmp_path: Path) -> None:
    made = ("make-checkpoint", checkpoint, "--dtype", "fp32")
    call(*made, tmp_path / "same")
    call(*made, tmp_path / "other", "--seed", 2**128 - 1)
    assert content_digest(tmp_path / "same") == content_digest(checkpoint)
    assert content_digest(tmp_path / "other") != content_digest(checkpoint)


def test_a_directory_with_content_is_left_alone(call: Call, tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("me")
    result = call("make-checkpoint", "tiny", tmp_path)
    assert result.exit_code == 2
    assert "is not empty" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["keep"]


def test_a_path_below_a_file_is_refused(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "new"):
        result = call("make-checkpoint", "tiny", path)
        assert result.exit_code == 2
        assert "cannot be written" in result.stderr


def test_what_cannot_fit_is_not_begun(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    result = call("make-checkpoint", "glm5", tmp_path / "new")
    assert result.exit_code == 3
    assert "1,507,728,278,016 bytes" in result.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("option", "value"), [("--seed", "-1"), ("--seed", str(2**128)), ("--dtype", "int4")]
)
def test_a_wrong_option_is_an_error_of_usage(
    call: Call, tmp_path: Path, option: str, value: str
) -> None:
    result = call("make-checkpoint", "tiny", tmp_path / "new", option, value)
    assert result.exit_code == 2
    assert option in result.stderr
    assert not (tmp_path / "new").exists()
