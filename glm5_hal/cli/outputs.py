"""Output files, written whole or not at all."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from glm5_hal.cli.failures import CommandError, ExitCode

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Output:
    """A file to be.

    Attributes:
        path: where it will stand.
        staging: the file beside it that is written first.
    """

    path: Path
    staging: Path

    def write(self, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str]) -> None:
        """Write the tensors and put the file into place."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        try:
            save_file(dict(tensors), self.staging, metadata=dict(metadata))
            self.staging.replace(self.path)
        except (OSError, SafetensorError) as error:
            raise CommandError(f"{self.path} was not written: {error}", ExitCode.FAILED) from None

    def write_text(self, text: str) -> None:
        """Write text and put the file into place."""
        try:
            self.staging.write_text(text, "utf-8")
            self.staging.replace(self.path)
        except OSError as error:
            raise CommandError(f"{self.path} was not written: {error}", ExitCode.FAILED) from None


@contextmanager
def output(path: Path) -> Iterator[Output]:
    """Claim a path before the work for it begins; what was there stays until `Output.write`."""
    target = path.resolve()  # a symbolic link stays one
    if target.exists() and not target.is_file():
        raise CommandError(f"{path} is not a regular file; name another output file")
    staging = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        staging.open("xb").close()
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}: {target.parent}") from None
    try:
        yield Output(target, staging)
    finally:
        staging.unlink(missing_ok=True)
