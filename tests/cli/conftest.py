"""A checkpoint, and a way to call the command line without the caller's environment."""

import json
import os
from pathlib import Path

import pytest
from cli_names import SMALL, Call, Ids
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from typer.testing import CliRunner, Result

from glm5_hal.cli import app
from glm5_hal.model.make_checkpoint import make_checkpoint


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith("GLM5_HAL_") or name == "CI":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of `SMALL`; treat it as read-only."""
    path = tmp_path_factory.mktemp("cli") / "small"
    make_checkpoint(SMALL, path, seed=0, dtype="fp32")
    return path


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint to change: its weights are links, everything else is copied."""
    path = tmp_path / "copied"
    path.mkdir()
    for file in checkpoint.iterdir():
        if file.suffix == ".safetensors":
            (path / file.name).symlink_to(file)
        else:
            (path / file.name).write_bytes(file.read_bytes())
    return path


@pytest.fixture
def spelled(copied: Path) -> Path:
    """A checkpoint with a tokenizer: id 7 is the word w7."""
    words = {f"w{i}": i for i in range(512)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(copied / "tokenizer.json"))
    return copied


@pytest.fixture
def call() -> Call:
    """Run `glm5-hal` with these arguments; an error without a message of its own is raised."""

    def invoke(*args: object) -> Result:
        result = CliRunner().invoke(app, [str(arg) for arg in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def ids(tmp_path: Path) -> Ids:
    """A JSON file with this content."""

    def write(content: object) -> Path:
        path = tmp_path / "ids.json"
        path.write_text(json.dumps(content))
        return path

    return write
