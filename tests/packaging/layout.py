"""Where the package's folders lie and what belongs to the package, read from pyproject.toml."""

import tomllib
from pathlib import Path
from typing import Any

FOLDERS = ("backends", "conformance", "kernels", "model")
"""Top-level folders that are imported below `glm5_hal`, and must not be import names."""
EXTENSIONS = ("glm5_hal/kernels/cpu/_exact", "glm5_hal/kernels/cpu/fast/_fast")
"""Built from sources of the package, where there is a compiler; a suffix names the platform."""


def is_extension(name: str) -> bool:
    """Whether a file of the installed package is a built extension."""
    return name.endswith((".so", ".pyd")) and name.split(".")[0] in EXTENSIONS


def project(root: Path) -> dict[str, Any]:
    """The content of pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text("utf-8"))


def package_folders(root: Path) -> dict[str, Path]:
    """Every package in the source tree, by import name: the folders that hold an __init__.py."""
    found = {}
    for name, top in project(root)["tool"]["setuptools"]["package-dir"].items():
        for init in sorted((root / top).rglob("__init__.py")):
            parts = init.parent.relative_to(root / top).parts
            found[".".join((name, *parts))] = init.parent
    return found


def package_files(root: Path) -> dict[str, Path]:
    """Every file that the wheel should hold, by its path there."""
    data: dict[str, list[str]] = project(root)["tool"]["setuptools"]["package-data"]
    found = {}
    for name, folder in package_folders(root).items():
        for pattern in ("*.py", *data["*"], *data.get(name, [])):
            for path in folder.glob(pattern):
                if path.is_file():
                    within = path.relative_to(folder).as_posix()
                    found[f"{name.replace('.', '/')}/{within}"] = path
    return found
