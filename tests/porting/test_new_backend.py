"""`glm5-hal new-backend`: names, files, and what they hold."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from glm5_hal import SelectionError
from glm5_hal.cli import app
from glm5_hal.conformance.waivers import Waivers
from glm5_hal.contract import OPS, Kind
from glm5_hal.porting import skeleton
from glm5_hal.porting.names import Names
from glm5_hal.porting.skeleton import Base, rendered, write

EVERYWHERE = {
    ".github/workflows/ci.yml",
    ".gitignore",
    "README.md",
    "pyproject.toml",
    "src/glm5_hal_acme_x1/__init__.py",
    "src/glm5_hal_acme_x1/backend.py",
    "src/glm5_hal_acme_x1/backend.yaml",
    "src/glm5_hal_acme_x1/py.typed",
    "src/glm5_hal_acme_x1/waivers.yaml",
    "tests/test_backend.py",
}
FURTHER = {
    Base.BLANK: set[str](),
    Base.TORCH_DEVICE: set[str](),
    Base.TRITON: {"src/glm5_hal_acme_x1/tiles.yaml"},
    Base.C_ABI: {
        "src/glm5_hal_acme_x1/native/Makefile",
        "src/glm5_hal_acme_x1/native/acme_x1.c",
        "src/glm5_hal_acme_x1/native/glm5_hal.h",
    },
}
BAD_NAMES = {
    "Acme": "expected a Python identifier in lower case",
    "1st": "expected a Python identifier in lower case",
    "my-chip": "expected a Python identifier in lower case",
    "chip_": "ends in a letter or digit",
    "": "expected a Python identifier",
    "über": "expected a Python identifier",
    "class": "expected a Python identifier",
    "../up": "expected a Python identifier",
    "cpu": "'cpu' is a backend already",
    "cpu_limbs": "'cpu-limbs' is a backend already",
    "ort": "'ort' is an alias of backend 'onnxruntime'",
}


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize("base", Base)
def test_a_base_has_these_files_and_no_key_is_left(base: Base) -> None:
    found = rendered(Names.checked("acme_x1"), base)
    assert set(found) == EVERYWHERE | FURTHER[base]
    for path, text in found.items():
        assert not skeleton._KEY.search(text), path
        assert text.endswith("\n") or not text, path


@pytest.mark.parametrize("base", Base)
def test_what_is_read_by_others_can_be_read(base: Base) -> None:
    found = rendered(Names.checked("acme_x1"), base)
    project: dict[str, Any] = tomllib.loads(found["pyproject.toml"])
    assert project["project"]["name"] == "glm5-hal-acme-x1"
    assert project["project"]["entry-points"]["glm5_hal.backends"] == {
        "acme_x1": "glm5_hal_acme_x1.backend:AcmeX1Backend"
    }
    assert Waivers.parse(found["src/glm5_hal_acme_x1/waivers.yaml"].encode()).entries == ()
    jobs = yaml.safe_load(found[".github/workflows/ci.yml"])["jobs"]
    steps = [step.get("run", "") for step in jobs["checks"]["steps"]]
    assert "pytest" in steps
    assert any(step.startswith("make ") for step in steps) is (base is Base.C_ABI)
    assert ("native/*" in project["tool"]["setuptools"]["package-data"]["*"]) is (
        base is Base.C_ABI
    )


@pytest.mark.parametrize("base", [Base.BLANK, Base.TORCH_DEVICE])
def test_every_primitive_is_there_to_be_written(base: Base) -> None:
    text = rendered(Names.checked("acme"), base)["src/glm5_hal_acme/backend.py"]
    primitives = [op for op in OPS.values() if op.kind is Kind.PRIMITIVE]
    assert text.count("    @not_written\n") == len(primitives)
    for op in primitives:
        _, _, method = text.partition(f"    def {op.name}(")
        body, _, _ = method.partition("raise NotImplementedError")
        assert all(requirement in body for requirement in op.requirements), op.name


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_cannot_be_used_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match=BAD_NAMES[name]):
        write(name, Base.BLANK, tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_a_directory_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "package"
    target.mkdir()
    (target / "mine").write_text("mine")
    with pytest.raises(SelectionError, match="is not empty; name a new or empty directory"):
        write("acme", Base.BLANK, target)
    assert files(tmp_path) == {"package/mine"}


def test_a_package_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = Path.write_text, 0

    def full(path: Path, *arguments: Any, **options: Any) -> int:
        nonlocal count
        count += 1
        if count == 4:
            raise OSError(28, "No space left on device")
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write("acme", Base.BLANK, tmp_path / "package")
    assert [*tmp_path.iterdir()] == []


def test_the_command_says_what_it_wrote_and_what_is_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = call("new-backend", "acme", "--base", "c-abi")
    assert code == 0
    assert files(tmp_path / "glm5-hal-acme") == {
        line.strip() for line in output.partition("next:")[0].splitlines()[1:]
    }
    assert "make -C glm5-hal-acme/src/glm5_hal_acme/native" in output
    assert "glm5-hal port status --backend acme" in output
    code, output = call("new-backend", "acme")
    assert code == 2
    assert "glm5-hal-acme is not empty" in output


def test_a_template_that_asks_for_too_much_is_a_defect() -> None:
    with pytest.raises(LookupError, match="template here asks for __COLOUR__, which has no value"):
        skeleton._filled("a __COLOUR__ one", {"NAME": "acme"}, "here")


@pytest.mark.parametrize("base", Base)
def test_the_code_passes_ruff_with_its_own_and_our_settings(base: Base, tmp_path: Path) -> None:
    pytest.importorskip("ruff", reason="not installed")
    root, _ = write("acme_x1", base, tmp_path / "package")
    ours = Path(__file__).parents[2] / "pyproject.toml"
    for settings in ([], ["--config", str(ours)]):
        for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
            run = [sys.executable, "-m", "ruff", *command, *settings]
            done = subprocess.run(run, cwd=root, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
