"""The package is described completely, and what the documentation shows can be run."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from layout import FOLDERS, package_files, package_folders, project
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from glm5_hal import Backend, env, registry
from glm5_hal.cli import app
from glm5_hal.model.config import ModelConfig

ROOT = Path(__file__).parents[2]
PROJECT = project(ROOT)
README = (ROOT / "README.md").read_text("utf-8")


def block(mark: str) -> str:
    """The fenced block of the README that follows a mark."""
    found = re.search(rf"<!-- {mark} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found is not None, f"README.md has no block marked {mark!r}"
    return found[1].strip()


def requirements() -> dict[str, Requirement]:
    """Everything that pyproject.toml asks for, by normalized name."""
    groups = [
        PROJECT["build-system"]["requires"],
        PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"].values(),
        *PROJECT["dependency-groups"].values(),
    ]
    texts = [text for group in groups for text in group if isinstance(text, str)]
    return {canonicalize_name(r.name): r for r in map(Requirement, texts)}


def pins() -> dict[str, Requirement]:
    """The lines of constraints.txt, by normalized name."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(r.name): r for r in found}


def test_every_package_folder_is_listed() -> None:
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(package_folders(ROOT))


def test_every_file_in_a_package_folder_is_packaged() -> None:
    tops = PROJECT["tool"]["setuptools"]["package-dir"].values()
    there = {path for top in tops for path in (ROOT / top).rglob("*") if path.is_file()}
    there = {path for path in there if "__pycache__" not in path.parts and path.suffix != ".so"}
    missing = sorted(
        str(path.relative_to(ROOT)) for path in there - {*package_files(ROOT).values()}
    )
    assert not missing, f"list them under package-data (or add an __init__.py): {missing}"


def test_folders_are_no_import_names_of_their_own() -> None:
    code = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    command = [sys.executable, "-I", "-c", code, *FOLDERS]
    assert subprocess.check_output(command, text=True).strip() == "[]"


def test_data_files_are_installed() -> None:
    assert resources.files("glm5_hal").joinpath("py.typed").is_file()
    configs = {path.name for path in resources.files("glm5_hal.model.configs").iterdir()}
    assert {path.name for path in (ROOT / "model/configs").glob("*.json")} <= configs


def test_installed_metadata_is_that_of_the_source() -> None:
    scripts = metadata.distribution("glm5-hal").entry_points
    assert metadata.version("glm5-hal") == PROJECT["project"]["version"]
    assert scripts["glm5-hal"].value == PROJECT["project"]["scripts"]["glm5-hal"]
    assert scripts["cpu"].load().name == "cpu"


@pytest.mark.parametrize("name", sorted(requirements()))
def test_every_requirement_is_pinned_within_its_range(name: str) -> None:
    assert name in pins(), f"add {name}==VERSION to constraints.txt"
    (pin,) = pins()[name].specifier
    assert pin.operator == "==", f"{pins()[name]} is no exact pin"
    assert requirements()[name].specifier.contains(pin.version)


@pytest.mark.parametrize("release", ["torch 2.11.0", "numpy 2.5.0", "transformers 5.23.0"])
def test_ranges_admit(release: str) -> None:
    name, version = release.split()
    assert requirements()[name].specifier.contains(version)


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert f"\n\n{block('command: test')}\n" in script.read_text("utf-8")


def parse(command: Any, line: list[str]) -> None:
    """Parse a command line, down to its subcommand, without running it."""
    if hasattr(command, "commands"):
        name, *line = line
        parse(command.commands[name], line)
    else:
        command.make_context(command.name, line)


def test_the_commands_of_the_readme_parse() -> None:
    lines = re.findall(r"^.*?\bglm5-hal ([^;&#\n]+)", block("command: first run"), re.MULTILINE)
    assert [line.split()[0] for line in lines] == [
        *("make-checkpoint", "plan", "run"),
        "conformance",
    ]
    lines += re.findall(r"^glm5-hal ([^#\n]+)", README, re.MULTILINE)
    lines += re.findall(r"`glm5-hal ([^`]+)`", README)
    for line in lines:
        parse(typer.main.get_command(app), shlex.split(line))


def test_the_prompt_of_the_readme_fits_the_tiny_model() -> None:
    (path,) = re.findall(r"--input-ids (\S+)", block("command: first run"))
    prompts = json.loads((ROOT / path).read_text("utf-8"))
    tokens = {token for prompt in prompts for token in prompt}
    config = ModelConfig.load("tiny")
    assert max(tokens) < config.vocab_size
    assert not tokens & {*config.eos_token_id}


def test_the_backend_of_the_readme_fits_the_contract() -> None:
    names: dict[str, type[Backend]] = {}
    exec(block("example: backend"), names)
    made = names["MyChip"]()
    assert made.is_available() == (True, "simulated")
    assert made.overrides("linear")


def test_readme_names_existing_variables_only() -> None:
    known = {variable.name for variable in env.VARIABLES}
    known |= {variable.name for each in registry.variables().values() for variable in each}
    assert set(re.findall(r"GLM5_HAL_[A-Z_]+", README)) <= known


def generator() -> ModuleType:
    """docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", generator().FILES)
def test_generated_documentation_is_current(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    assert generator().rendered(text) == text, "run `nox -s docs`"
    assert "<!-- generated: " in text
