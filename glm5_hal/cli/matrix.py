"""`glm5-hal matrix`: what committed evidence shows of every backend, and what it does not."""

import json as jsons
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glm5_hal.cli import console, options
from glm5_hal.cli.outputs import output

if TYPE_CHECKING:
    from glm5_hal.conformance.matrix.matrix import Matrix


def matrix(
    evidence: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of evidence; default: that of this package."),
    ] = None,
    add: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Put a result package, or the JSON of an audit, into the folder first.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write it there as well: .json, otherwise Markdown."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Show the support matrix: backend, op, level and profile, made of evidence alone.

    Exit codes: 0 made, 1 a file of evidence was altered, 2 usage.
    """
    from glm5_hal.conformance import sources
    from glm5_hal.conformance.matrix import files, tables
    from glm5_hal.conformance.matrix.matrix import Matrix

    folder = evidence or files.FOLDER
    with ExitStack() as stack:
        file = stack.enter_context(output(out)) if out else None
        for path in add or ():
            console.note(f"added: {files.store(path, folder, sources.SUITE)}")
        found = Matrix.of(folder, sources.SUITE, offered())
        if file and out:
            plain = out.suffix == ".json"
            text = jsons.dumps(found.to_dict(), indent=2) if plain else tables.markdown(found)
            file.write_text(text + "\n")
    if json:
        console.print_json(found.to_dict())
    else:
        _print(found)


def offered(ours: bool = False) -> dict[str, tuple[str, ...]]:
    """Profiles that each registered backend offers, by name.

    Args:
        ours: only the backends of this package.
    """
    from glm5_hal.errors import HalError
    from glm5_hal.registry import load, registered

    found: dict[str, tuple[str, ...]] = {}
    for name, point in registered().items():
        if ours and not point.value.startswith("glm5_hal."):
            continue
        try:
            profiles = load(name).capabilities.profiles
        except HalError as error:  # its profiles are not known, so nothing is said of it
            console.note(f"warning: backend {name} is left out: {error}")
            continue
        found[name] = tuple(sorted(profile.value for profile in profiles))
    return found


def _print(found: "Matrix") -> None:
    from glm5_hal.conformance.matrix import tables

    for table in tables.tables(found):
        typer.echo(f"{table.title}: {table.note}")
        console.print_table(table.columns, table.rows)
        typer.echo()
    for text in tables.remarks(found):
        typer.echo(text)
    typer.echo(f"\n{tables.legend(found)}")
    typer.echo(tables.without(found))
