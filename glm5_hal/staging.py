"""Directories that are written whole or not at all."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def target_problem(path: Path) -> str:
    """Why a directory cannot be written to a path, in a sentence; empty if it can."""
    if not path.exists():
        return ""
    if not path.is_dir():
        return f"{path} is a file; name a new or empty directory"
    return f"{path} is not empty; name a new or empty directory" if any(path.iterdir()) else ""


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory to fill; when all went well it takes its place, else nothing is left of it.

    Raises:
        FileExistsError: as `target_problem` says.
    """
    if problem := target_problem(path):
        raise FileExistsError(problem)
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    # beside the target, so that the last step is a rename within one file system
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
        staging = Path(scratch) / path.name
        staging.mkdir()
        yield staging
        if path.exists():
            path.rmdir()
        staging.rename(path)
