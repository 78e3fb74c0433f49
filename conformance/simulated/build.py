"""The simulated device's extension: compiled when it is first asked for, and kept.

What was built is named by the hash of its sources, of torch and of the interpreter, so a change of
any of them builds again. Several processes may ask at once: one builds, the others wait.
"""

import fcntl
import hashlib
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from types import ModuleType

import torch

from glm5_hal.conformance.errors import UnusableError

NAME = "_simulated_device"
FLAGS = ("-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-w")


class BuildError(UnusableError):
    """The extension cannot be built here."""


def missing_compiler() -> str | None:
    """Why nothing can be built here; None where something can."""
    if sys.platform != "linux":
        return f"the simulated device needs Linux, not {sys.platform}"
    if shutil.which(compiler()) is None:
        return f"no C++ compiler {compiler()!r}: install g++, or name another one in CXX"
    return None


def compiler() -> str:
    """The C++ compiler's program."""
    return os.environ.get("CXX", "g++")


def cache_folder() -> Path:
    """Where extensions are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "glm5-hal" / "simulated"


def extension(folder: Path | None = None) -> Path:
    """The extension's file; built if it is not there.

    Args:
        folder: where to keep it; default: `cache_folder()`.

    Raises:
        BuildError: no compiler, or it does not take the sources.
    """
    folder = cache_folder() if folder is None else folder
    with as_file(files(__package__).joinpath("native")) as sources:
        path = folder / _key(sources) / f"{NAME}.so"
        if path.is_file():
            return path
        reason = missing_compiler()
        if reason is not None:
            raise BuildError(reason)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.with_suffix(".lock")):
            if not path.is_file():
                _build(sources, path)
    return path


def load(folder: Path | None = None) -> ModuleType:
    """The extension as a module, once per process."""
    if NAME in sys.modules:
        return sys.modules[NAME]
    path = extension(folder)
    loader = importlib.machinery.ExtensionFileLoader(NAME, str(path))
    spec = importlib.util.spec_from_file_location(NAME, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules[NAME] = module
    return module


def _key(sources: Path) -> str:
    """What the extension depends on."""
    digest = hashlib.sha256()
    for part in (torch.__version__, sys.version, compiler(), *FLAGS):
        digest.update(part.encode() + b"\0")
    for path in sorted(sources.iterdir()):
        if path.suffix in (".cpp", ".h"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock that ends with its process, however that ends."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(sources: Path, path: Path) -> None:
    """Compile and link; the file appears whole or not at all."""
    from torch.utils.cpp_extension import include_paths, library_paths

    includes = [f"-I{folder}" for folder in (*include_paths(), sysconfig.get_paths()["include"])]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    defines = [abi, f"-DTORCH_EXTENSION_NAME={NAME}"]
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        units = sorted(sources.glob("*.cpp"))
        objects = [Path(scratch, f"{unit.stem}.o") for unit in units]
        commands = [
            [compiler(), *FLAGS, *includes, *defines, "-c", str(unit), "-o", str(made)]
            for unit, made in zip(units, objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        linked = Path(scratch, path.name)
        libraries = [f"-L{where}" for where in library_paths()]
        names = ("c10", "torch_cpu", "torch", "torch_python")
        _run(
            [
                *(compiler(), "-shared", "-pthread", *map(str, objects), *libraries),
                *(f"-l{name}" for name in names),
                *("-o", str(linked)),
            ]
        )
        linked.replace(path)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line][:8]
        raise BuildError(
            "the simulated device cannot be built with "
            f"{command[0]} and torch {torch.__version__}:\n" + "\n".join(lines or [done.stderr])
        )
