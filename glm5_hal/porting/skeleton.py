"""Packages to begin a backend with: written from templates, whole or not at all.

A template is the file it becomes, with ``__KEY__`` where a value stands, ``.in`` behind its name
and ``dot-`` for a leading dot. Those of ``common`` go into every package, those of the base beside
them.
"""

import enum
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

import yaml

from glm5_hal.errors import SelectionError
from glm5_hal.plan import package_version
from glm5_hal.porting.names import Names
from glm5_hal.porting.stubs import methods
from glm5_hal.staging import new_directory, target_problem

PARTS = "parts.yaml"
_KEY = re.compile(r"__([A-Z][A-Z_]*?)__")


class Base(enum.Enum):
    """What a new backend begins with."""

    BLANK = "blank"
    """Tensors in host memory; every op is to be written."""
    TORCH_DEVICE = "torch-device"
    """A device of torch's; every op is to be written, for example in torch."""
    TRITON = "triton"
    """A device of torch's with a Triton compiler; the portable kernels are there."""
    C_ABI = "c-abi"
    """A library in C; three ops of it are there."""

    @property
    def folder(self) -> str:
        """Where its templates lie."""
        return self.value.replace("-", "_")


def write(name: str, base: Base, directory: Path | None = None) -> tuple[Path, list[str]]:
    """Write a package for a new backend.

    Args:
        name: of the backend.
        base: what it begins with.
        directory: a new or empty one; default: the project's name, here.

    Returns:
        The directory, and the files in it, sorted.

    Raises:
        SelectionError: the name cannot be used, or the directory holds something.
    """
    names = Names.checked(name)
    directory = directory or Path(names.project)
    if problem := target_problem(directory):
        raise SelectionError(problem)
    made = rendered(names, base)
    with new_directory(directory) as staging:
        for path, text in made.items():
            target = staging / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, "utf-8")
    return directory, sorted(made)


def rendered(names: Names, base: Base) -> dict[str, str]:
    """The files of a package by their path in it."""
    version = package_version()
    values = {
        "NAME": names.backend,
        "UPPER": names.backend.upper(),
        "PACKAGE": names.package,
        "PROJECT": names.project,
        "TITLE": names.title,
        "BASE": base.value,
        "REQUIREMENT": "glm5-hal" if version == "unknown" else f"glm5-hal>={version}",
        "METHODS": methods(),
    }
    values |= {key: _filled(text, values, PARTS) for key, text in _parts(base).items()}
    found = {}
    for folder in ("common", base.folder):  # a base's own file goes before the common one
        for path, text in _templates(folder):
            found[_filled(path, values, path)] = _filled(text, values, path)
    return found


def _parts(base: Base) -> dict[str, str]:
    """What the common templates hold of a base, by key."""
    text = files(__package__).joinpath("templates", base.folder, PARTS).read_text("utf-8")
    found: dict[str, str] = yaml.safe_load(text)
    return found


def _templates(folder: str) -> Iterator[tuple[str, str]]:
    """Path of the file it becomes, and content, of each template."""
    yield from _below(files(__package__).joinpath("templates", folder), PurePosixPath())


def _below(folder: Traversable, place: PurePosixPath) -> Iterator[tuple[str, str]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _below(entry, place / _visible(entry.name))
        elif entry.name.endswith(".in"):
            name = _visible(entry.name.removesuffix(".in"))
            yield str(place / name), entry.read_text("utf-8")


def _visible(name: str) -> str:
    """A file's own name: what begins with a dot is easily left out of a package."""
    return f".{name.removeprefix('dot-')}" if name.startswith("dot-") else name


def _filled(text: str, values: Mapping[str, str], where: str) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise LookupError(f"template {where} asks for {match[0]}, which has no value")
        return values[match[1]]

    return _KEY.sub(value, text)
