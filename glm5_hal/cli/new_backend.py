"""`glm5-hal new-backend`: a package to begin a backend with."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from glm5_hal.cli.failures import CommandError, ExitCode

BaseName = Literal["blank", "torch-device", "triton", "c-abi"]


def new_backend(
    name: Annotated[str, typer.Argument(help="Of the backend, such as acme.")],
    base: Annotated[
        BaseName,
        typer.Option(
            help="blank: tensors in host memory; torch-device: a device of torch's, no Triton; "
            "triton: one with a Triton compiler; c-abi: a library in C."
        ),
    ] = "blank",
    dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where; default: ./glm5-hal-NAME."),
    ] = None,
) -> None:
    """Write a package for a new backend: installed, it can be selected at once."""
    from glm5_hal.porting.names import Names
    from glm5_hal.porting.skeleton import Base, write

    try:
        directory, written = write(name, Base(base), dir)
    except OSError as error:
        raise CommandError(f"nothing was written: {error}", ExitCode.FAILED) from None
    typer.echo(f"wrote {directory}:")
    for path in written:
        typer.echo(f"  {path}")
    typer.echo("next:")
    if base == "c-abi":
        typer.echo(f"  make -C {directory}/src/{Names(name).package}/native")
    typer.echo(f"  pip install -e {directory}")
    typer.echo(f"  GLM5_HAL_BACKEND={name} glm5-hal plan")
    typer.echo(f"  glm5-hal port status --backend {name}")
