"""`glm5-hal port status --watch`: again, in a fresh process, after every change."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import typer

from glm5_hal.cli import console

SUFFIXES = (".py", ".yaml", ".json", ".c", ".cc", ".cpp", ".cu", ".h", ".so")
INTERRUPTED = 130

_PAUSE = 0.5
"""Seconds between two looks; files that change between two looks are still being written."""

Snapshot = dict[Path, tuple[int, int]]
"""Time of change in nanoseconds, and size, of each file."""


def watch(backend: str | None, numerics: str | None) -> None:
    """Show the status now and after every change, until Ctrl-C.

    Raises:
        UnknownBackend: nothing is registered under the name.
        typer.Exit: after Ctrl-C.
    """
    from glm5_hal import env

    folder = folder_of(backend or env.read(env.BACKEND) or env.BACKEND.default)
    command = [sys.executable, "-m", "glm5_hal", "port", "status"]
    for option, value in (("--backend", backend), ("--numerics", numerics)):
        command += [option, value] if value else []
    try:
        while True:
            before = snapshot(folder)
            _run(command)
            console.note(f"watching {len(before)} files in {folder}; Ctrl-C ends")
            changed = settled(lambda: snapshot(folder), before)
            console.note(f"changed: {', '.join(changed)}")
    except KeyboardInterrupt:
        console.note("stopped")
        raise typer.Exit(INTERRUPTED) from None


def folder_of(backend: str) -> Path:
    """The folder of a backend's sources, found without running them: they may be broken.

    Raises:
        UnknownBackend: nothing is registered under the name.
        BackendUnavailable: the entry point names a package that is not there.
    """
    from glm5_hal.errors import BackendUnavailable, UnknownBackend
    from glm5_hal.registry import Choice, aliases, registered

    name, points = Choice.parse(backend).name, registered()
    point = points.get(name) or points.get(aliases().get(name, name))
    if point is None:
        raise UnknownBackend(name, points)
    package = point.module.partition(".")[0]
    if package == __name__.partition(".")[0]:  # one of ours: its own folder alone
        package = point.module.rpartition(".")[0]
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise BackendUnavailable(point.name, f"package {package} of {point.value} is not there")
    return Path(next(iter(spec.submodule_search_locations)))


def snapshot(folder: Path) -> Snapshot:
    """The sources below a folder as they are."""
    found: Snapshot = {}
    for path in folder.rglob("*"):
        hidden = any(part.startswith((".", "__")) for part in path.relative_to(folder).parts[:-1])
        if path.suffix in SUFFIXES and not hidden:
            try:
                entry = path.stat()
            except FileNotFoundError:  # an editor's file, gone already
                continue
            found[path] = (entry.st_mtime_ns, entry.st_size)
    return found


def settled(look: Callable[[], Snapshot], before: Snapshot, pause: float = _PAUSE) -> list[str]:
    """Wait until something differs from `before` and then stays as it is; names of the files."""
    now = before
    while True:
        time.sleep(pause)
        last, now = now, look()
        if now == last and now != before:
            paths = sorted(path for path in {**before, **now} if before.get(path) != now.get(path))
            return [path.name for path in paths]


def _run(command: list[str]) -> None:
    """One round. A process group of its own, so that Ctrl-C reaches us first and once."""
    # of two versions of a file in one second and of one size, bytecode could be of the first
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    child = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        child.wait()
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        raise
