"""`--ranks N`: processes that torch.distributed joins."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_names import Ids
from safetensors.torch import load_file


def glm5_hal(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GLM5_HAL_")}
    return subprocess.run(
        [sys.executable, "-m", "glm5_hal", *map(str, arguments)],
        env=kept | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


EXACT = {"GLM5_HAL_NUMERICS": "exact"}


def test_two_processes_write_the_logits_of_one(checkpoint: Path, ids: Ids, tmp_path: Path) -> None:
    asked = ("--input-ids", ids([[5, 6, 7, 8], [9]]))
    digests = []
    for number in (1, 3):
        out = tmp_path / f"{number}.safetensors"
        done = glm5_hal("logits", checkpoint, *asked, "--out", out, "--ranks", number, **EXACT)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("wrote") == 1
        digests.append(done.stdout.split("sha256 ")[1].strip())
    assert digests[0] == digests[1]
    one, three = (load_file(tmp_path / f"{n}.safetensors")["logits"] for n in (1, 3))
    assert one.nan_to_num().equal(three.nan_to_num())


def test_generation_is_printed_once(checkpoint: Path, ids: Ids) -> None:
    asked = ("--input-ids", ids([5, 6, 7]), "--max-new-tokens", 4, "--temperature", 0.7)
    one, two = (glm5_hal("run", checkpoint, *asked, "--ranks", n, **EXACT) for n in (1, 2))
    assert two.returncode == 0, two.stderr
    assert two.stdout == one.stdout


def test_several_ranks_in_the_fast_profile_are_an_error_of_usage(
    checkpoint: Path, ids: Ids, tmp_path: Path
) -> None:
    out = tmp_path / "logits.safetensors"
    asked = ("--input-ids", ids([5]), "--out", out, "--ranks", 2)
    done = glm5_hal("logits", checkpoint, *asked)
    assert done.returncode == 2
    assert "2 ranks in the fast profile" in done.stderr
    assert list(tmp_path.glob("*.safetensors")) == []


@pytest.mark.parametrize("command", ["logits", "run"])
def test_a_number_that_contradicts_torchrun_is_refused(command: str, checkpoint: Path) -> None:
    more = {"logits": ("--out", "x"), "run": ("--max-new-tokens", 1)}[command]
    asked = (command, checkpoint, "--input-ids", "x", *more, "--ranks", 3)
    done = glm5_hal(*asked, WORLD_SIZE="2", RANK="0")
    assert done.returncode == 2
    assert "WORLD_SIZE=2" in done.stderr
