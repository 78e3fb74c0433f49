"""What a user sees: tables and JSON on stdout; notices, errors and progress on stderr.

Rich serves terminals. Elsewhere, and where the variable CI is set, output is plain text.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TextIO

import typer

Advance = Callable[[int, int], None]
"""Called with (done, in all)."""
_LAST = 20
"""Characters that the last column of a table should have in a terminal."""


def is_terminal(stream: TextIO) -> bool:
    """Whether someone looks at `stream`."""
    return stream.isatty() and not os.environ.get("CI")


def note(text: str) -> None:
    """One line about the run, on stderr."""
    typer.echo(text, err=True)


def fail(text: str) -> None:
    """An error's message, on stderr."""
    head = "error:"
    if is_terminal(sys.stderr):
        head = typer.style(head, fg=typer.colors.RED, bold=True)
    typer.echo(f"{head} {text}", err=True)


def print_json(value: object) -> None:
    """A document on stdout."""
    typer.echo(json.dumps(value, indent=2))


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()
) -> None:
    """A table on stdout; the columns in `right` are aligned to the right.

    In a terminal the last column alone is wrapped, if that leaves it room enough.
    """
    if not is_terminal(sys.stdout):
        typer.echo(_plain(columns, rows, right))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    widths = _widths([columns, *rows])
    roomy = sum(widths[:-1]) + 2 * len(widths) + _LAST <= console.width
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for place, column in enumerate(columns):
        side: Literal["left", "right"] = "right" if column in right else "left"
        fixed = roomy and place + 1 < len(columns)
        table.add_column(column, justify=side, overflow="fold", no_wrap=fixed)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _plain(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str]) -> str:
    lines = [columns, *rows]
    widths = _widths(lines)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, cell, width in zip(columns, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    """Of each column."""
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def print_facts(facts: dict[str, str]) -> None:
    """Names and values on stdout, one a line."""
    width = max(map(len, facts))
    for name, value in facts.items():
        typer.echo(f"{name:<{width}}  {value}")


@contextmanager
def progress(label: str) -> Iterator[Advance | None]:
    """A progress bar on stderr, None where nobody looks; it pulses until it is told a total."""
    if not is_terminal(sys.stderr):
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
    with bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Notices(logging.Handler):
    """Prints the library's warnings, one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        note(f"{record.levelname.lower()}: {record.getMessage()}")


def show_warnings() -> None:
    """Let the library's warnings appear on stderr."""
    log = logging.getLogger("glm5_hal")
    if not any(isinstance(handler, _Notices) for handler in log.handlers):
        log.addHandler(_Notices(logging.WARNING))
