"""`glm5-hal conformance golden`: the digests that every backend of the exact profile must give."""

import os
import time
from typing import TYPE_CHECKING, Annotated

import typer

from glm5_hal.cli import console
from glm5_hal.cli.failures import CommandError, ExitCode

if TYPE_CHECKING:
    from glm5_hal.conformance.golden.maker import Drift

_SHOWN = 20


def golden(
    write: Annotated[
        bool, typer.Option("--write", help="Record the digests of all cases in a checkout.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 if a digest would change.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Check the quick cases only.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processes; default: one a processor.")
    ] = None,
) -> None:
    """For developers: compute the exact profile's digests from the definitions."""
    from glm5_hal.conformance import golden as recorded
    from glm5_hal.conformance.golden import maker

    if write == check:
        raise CommandError("one of --write and --check is needed")
    if write and quick:
        raise CommandError("--write records all cases; --quick is for --check")
    if write and not (recorded.FILE.parents[2] / "pyproject.toml").exists():
        raise CommandError(f"{recorded.FILE} is not in a checkout; it is part of a release")
    began = time.monotonic()
    wanted = maker.names(quick=quick)
    with console.progress("cases") as advance:
        made = maker.make(wanted, workers or os.cpu_count() or 1, advance)
    found = maker.drift(made, whole=not quick)
    _show(found)
    typer.echo(f"{len(made)} digests of {len(wanted)} cases, {time.monotonic() - began:.0f} s")
    if write:
        recorded.save(made)
    elif not found.none:
        raise typer.Exit(ExitCode.FAILED)


def _show(found: "Drift") -> None:
    for what, names in (("changed", found.changed), ("new", found.new), ("gone", found.gone)):
        for name in names[:_SHOWN]:
            typer.echo(f"{what} {name}")
        if len(names) > _SHOWN:
            typer.echo(f"{what}: {len(names) - _SHOWN} more")
