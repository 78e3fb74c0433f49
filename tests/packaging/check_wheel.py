"""Checks an installed wheel: ``python check_wheel.py WHEEL ROOT`` in an environment that holds it.

Run by `nox -s package` where nothing but the wheel and its declared dependencies is installed, so
that importing every module also shows what the declaration forgot. The standard library only.
"""

import importlib
import importlib.metadata
import importlib.resources
import importlib.util
import pkgutil
import re
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from layout import EXTENSIONS, FOLDERS, is_extension, package_files


def contents(wheel: Path, root: Path) -> Iterator[str]:
    """The wheel holds the package's files, byte for byte, and no others but extensions."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        held = {name for name in held if not is_extension(name)}
        wanted = package_files(root)
        yield from (f"{name} is not in the wheel" for name in sorted(wanted.keys() - held))
        yield from (f"{name} should not be in the wheel" for name in sorted(held - wanted.keys()))
        for name in sorted(held & wanted.keys()):
            if archive.read(name) != wanted[name].read_bytes():
                yield f"{name} differs from the source"


def installed() -> Iterator[str]:
    """It is imported from where packages are installed, whole, under one name."""
    import glm5_hal

    home = Path(glm5_hal.__file__)
    places = [sysconfig.get_path(kind) for kind in ("purelib", "platlib")]
    if not any(home.is_relative_to(place) for place in places):
        yield f"glm5_hal comes from {home}, expected the installed package"
    if not (home.parent / "py.typed").is_file():
        yield "py.typed is missing"
    for name in FOLDERS:
        if importlib.util.find_spec(name) is not None:
            yield f"{name!r} is an import name of its own; expected glm5_hal.{name} alone"
    for module in pkgutil.walk_packages(glm5_hal.__path__, "glm5_hal.", onerror=lambda _: None):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            name = str(error.name)
            if name.replace(".", "/") not in EXTENSIONS and name.split(".")[0] not in extras():
                yield f"{module.name} cannot be imported: {error!r}"
        except Exception as error:  # whatever a module does on import
            yield f"{module.name} cannot be imported: {error!r}"


def extras() -> set[str]:
    """Packages that belong to an extra and so are not here, by the name they are imported by."""
    listed = importlib.metadata.requires("glm5-hal") or []
    asked = (line for line in listed if "extra ==" in line)
    return {re.split(r"[^\w.-]", line)[0].replace("-", "_") for line in asked}


def entry_points() -> Iterator[str]:
    """Backends load by their entry points; the CPU is there and is available."""
    points = {
        point.name: point for point in importlib.metadata.entry_points(group="glm5_hal.backends")
    }
    if "cpu" not in points:
        yield f"no backend 'cpu' is registered; found {sorted(points)}"
    for name, point in points.items():
        backend = point.load()
        if backend.name != name:
            yield f"entry point {name!r} gives the backend {backend.name!r}"
    from glm5_hal.backends.cpu.backend import CpuBackend

    available, reason = CpuBackend.is_available()
    if not available:
        yield f"the CPU backend is not available: {reason}"
    if not importlib.resources.files("glm5_hal.model.configs").joinpath("tiny.json").is_file():
        yield "glm5_hal.model.configs has no tiny.json"


def main() -> None:
    """Print what is wrong and exit with 1, or say that nothing is."""
    wheel, root = map(Path, sys.argv[1:])
    problems = [*contents(wheel, root), *installed(), *entry_points()]
    if problems:
        sys.exit("\n".join(problems))
    print(f"{wheel.name}: {len(package_files(root))} files, all modules import")


if __name__ == "__main__":
    main()
