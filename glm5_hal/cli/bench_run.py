"""What `glm5-hal bench` runs, shows and writes: progress, tables or JSON, a directory."""

import json as jsons
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from glm5_hal.cli import console
from glm5_hal.cli.failures import CommandError

if TYPE_CHECKING:
    from glm5_hal.conformance.bench.cases import OpCase
    from glm5_hal.conformance.bench.results import Report
    from glm5_hal.conformance.bench.running import Model, Observer, Settings

_PAUSE = 10.0
"""Seconds between two lines about progress where no terminal shows a bar."""


def measured(settings: "Settings", cases: "Sequence[OpCase]", model: "Model | None") -> "Report":
    from glm5_hal.conformance.bench.running import Bench
    from glm5_hal.plan import resolve

    resolve(settings.backend, settings.numerics)  # what is wrong shows before a process begins
    _warn_busy()
    with _observer() as observe:
        return Bench(settings, observe).run(cases, model)


def _warn_busy() -> None:
    from glm5_hal.conformance.bench.results import BUSY

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load >= BUSY:
        console.note(
            f"warning: the machine is busy, load {load:.1f} on {os.cpu_count()} cores: these times "
            "will be a smoke test"
        )


@contextmanager
def _observer() -> "Iterator[Observer]":
    """What tells the user about progress, on stderr."""
    if not console.is_terminal(sys.stderr):
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total, description=what
        )


def _lines() -> "Observer":
    last = -_PAUSE

    def observe(done: int, total: int, what: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PAUSE:
            last = now
            console.note(f"{done} of {total}, {what}")

    return observe


# --- what was found ---


def write(report: "Report", folder: Path) -> None:
    from glm5_hal.conformance.bench import plots, text

    pictures: dict[str, tuple[str, Callable[[Report], str]]] = {}
    if plots.has_time(report):
        pictures["time.svg"] = ("Time against context", plots.time)
    if plots.has_memory(report):
        pictures["memory.svg"] = ("Peak memory against context", plots.memory)
    for file, (_, draw) in pictures.items():
        (folder / file).write_text(draw(report), "utf-8")
    captions = [(file, caption) for file, (caption, _) in pictures.items()]
    (folder / "result.md").write_text(text.markdown(report, captions), "utf-8")
    (folder / "bench.json").write_text(jsons.dumps(report.to_dict(), indent=1) + "\n", "utf-8")


def show(report: "Report", out: Path | None, json: bool) -> None:
    from glm5_hal.conformance.bench import text

    if json:
        console.print_json(report.to_dict())
        return
    console.print_facts(text.facts(report))
    for table in text.tables(report):
        typer.echo(f"\n{table.title}")
        console.print_table(table.columns, table.rows, right=table.right)
    typer.echo()
    for line in [*text.not_run(report), text.NOTES]:
        typer.echo(line)
    if report.where.busy:
        console.note(f"warning: {report.where.busy}")
    if out is not None:
        console.note(f"wrote {out}")


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    from glm5_hal import staging

    if problem := staging.target_problem(path):
        raise CommandError(problem)
    with staging.new_directory(path) as folder:
        yield folder
