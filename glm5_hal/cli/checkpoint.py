"""`glm5-hal make-checkpoint`: a random checkpoint in the published format."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from glm5_hal.cli import console, options
from glm5_hal.cli.failures import CommandError, ExitCode

if TYPE_CHECKING:
    from glm5_hal.model.config import ModelConfig

Storage = Literal["bf16", "fp32", "fp8"]
_ITEM_BYTES: dict[Storage, int] = {"bf16": 2, "fp32": 4, "fp8": 1}


def make_checkpoint(
    config: options.Config,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty directory.")],
    seed: options.Seed = 0,
    dtype: Annotated[Storage, typer.Option(help="How matrices are stored.")] = "bf16",
    no_mtp: Annotated[bool, typer.Option("--no-mtp", help="Leave the MTP layer out.")] = False,
) -> None:
    """Write a random checkpoint, alike on every machine."""
    from glm5_hal.model.checkpoint import Checkpoint
    from glm5_hal.model.config import ModelConfig

    write_random(ModelConfig.load(config), directory, seed=seed, dtype=dtype, mtp=not no_mtp)
    with Checkpoint.open(directory) as written:
        files = {tensor.file for tensor in written.tensors.values()}
        typer.echo(
            f"wrote {directory}: {config}, {written.storage}, seed {seed}, "
            f"{'with' if written.has_mtp else 'without'} MTP layer; {len(written.tensors)} tensors "
            f"in {len(files)} file{'s' if len(files) > 1 else ''}, {written.nbytes:,} bytes"
        )


def write_random(
    config: "ModelConfig", directory: Path, *, seed: int, dtype: Storage, mtp: bool
) -> None:
    """`make_checkpoint` with a progress bar, if there is room.

    Raises:
        CommandError: the directory cannot be written.
    """
    from glm5_hal.model import make_checkpoint as maker

    try:
        _check_room(config, directory, dtype, mtp)
        with console.progress("writing checkpoint") as advance:
            maker.make_checkpoint(
                config, directory, seed=seed, dtype=dtype, mtp=mtp, progress=advance
            )
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise CommandError(f"{directory} cannot be written: {error}") from None
    except OSError as error:
        raise CommandError(f"{directory} was not written: {error}", ExitCode.FAILED) from None


def _check_room(config: "ModelConfig", directory: Path, dtype: Storage, mtp: bool) -> None:
    """Refuse what cannot fit: a full-size checkpoint takes days to fail otherwise."""
    from glm5_hal.model.params import parameter_table

    table = parameter_table(config)
    needed = _ITEM_BYTES[dtype] * (table.total if mtp else table.total_without_mtp)
    parent = next(path for path in directory.absolute().parents if path.is_dir())
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise CommandError(
            f"{directory} cannot be written: it needs at least {needed:,} bytes, and {free:,} are "
            f"free in {parent}",
            ExitCode.UNUSABLE,
        )
