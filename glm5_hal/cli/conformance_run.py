"""`glm5-hal conformance run`: judge a backend, show how far it is, say what was found."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glm5_hal.cli import console, options
from glm5_hal.cli.failures import CommandError, ExitCode
from glm5_hal.cli.plan import note_default

if TYPE_CHECKING:
    from glm5_hal.conformance.case import Result
    from glm5_hal.conformance.package import Package
    from glm5_hal.conformance.runner import Job, Observer, Outcome

Ops = Annotated[
    str | None,
    typer.Option(
        metavar="A,B", help="Cases of these ops only, or with -A of all but A; claims nothing."
    ),
]
Quick = Annotated[bool, typer.Option("--quick", help="The quick selection.")]
Numerics = Annotated[
    str | None, typer.Option(metavar="PROFILE", help="Default: GLM5_HAL_NUMERICS, else fast.")
]

_PAUSE = 10.0
"""Seconds between two lines about progress where no terminal shows a bar."""
_INTERRUPTED = 130


def run(
    backend: options.Backend = None,
    numerics: Numerics = None,
    quick: Quick = False,
    ops: Ops = None,
    aspects: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Such as cross-backend only; claims nothing."),
    ] = None,
    case: Annotated[
        str | None, typer.Option(metavar="ID", help="This case only; claims nothing.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Leave a result package here and in DIR.tar; an interrupted run resumes.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Processes; default: 2 on the CPU, 1 on an accelerator."
        ),
    ] = None,
    static: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --out: attach what `glm5-hal audit --out FILE` found of its kernels.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Judge a backend.

    Exit codes: 0 passed, 1 failed, 2 usage, 3 no case ran or the environment is unusable.
    """
    from glm5_hal.conformance import sources
    from glm5_hal.conformance.runner import Request, prepare

    attached = _attached(static, out)
    note_default(backend)
    request = Request(
        *(backend, numerics, quick, split(ops), case, workers, sources.SUITE), split(aspects)
    )
    job = prepare(request)
    _introduce(job)
    try:
        outcome, package = _execute(job, out, attached)
    except KeyboardInterrupt:
        again = "the same command resumes" if out else "with --out DIR it could be resumed"
        console.note(f"interrupted; {again}")
        raise typer.Exit(_INTERRUPTED) from None
    if json:
        console.print_json(_document(outcome, out, package))
    else:
        _print(outcome, out, package)
    if not outcome.judged:
        raise typer.Exit(ExitCode.UNUSABLE)
    if outcome.problems:
        raise typer.Exit(ExitCode.FAILED)


def split(ops: str | None) -> tuple[str, ...]:
    """The names in ``a,b``."""
    return tuple(name.strip() for name in (ops or "").split(",") if name.strip())


def _introduce(job: "Job") -> None:
    from glm5_hal.conformance.manifest import warnings

    plan = job.plan
    console.note(
        f"plan: {plan.backend}:{plan.index}, {plan.numerics.value}, {plan.hash}; "
        f"{len(job.cases)} cases, {job.workers} x {job.threads} threads"
    )
    for text in warnings(job):
        console.note(f"warning: {text}")


def _attached(static: Path | None, out: Path | None) -> bytes | None:
    """The audit to attach, known to be one before anything runs."""
    if static is None:
        return None
    if out is None:
        raise CommandError(f"--static {static} goes into a result package: give --out DIR as well")
    if not static.is_file():
        raise CommandError(f"--static {static}: no such file; `glm5-hal audit --out` writes one")
    from glm5_hal.conformance.static_evidence import parse

    content = static.read_bytes()
    parse(content, str(static))
    return content


def _execute(
    job: "Job", out: Path | None, static: bytes | None
) -> "tuple[Outcome, Package | None]":
    from glm5_hal.conformance.package import seal
    from glm5_hal.conformance.runner import execute

    with observer() as observe:
        if out is not None:
            outcome = execute(job, out, observe)
        else:
            with tempfile.TemporaryDirectory(prefix="glm5-hal-") as folder:
                return execute(job, Path(folder), observe), None
    return outcome, seal(outcome, out, static)


# --- progress ---


@contextmanager
def observer() -> "Iterator[Observer]":
    """What tells the user about progress, on stderr."""
    import sys

    if not console.is_terminal(sys.stderr):
        yield _Lines().observe
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    text = TextColumn("{task.fields[left]}{task.fields[broken]}", style="dim")
    bar = Progress(*columns, text, console=Console(stderr=True), transient=True)
    pace = _Pace()
    with bar:
        task = bar.add_task("", total=None, left="", broken="")

        def observe(done: int, total: int, result: "Result | None") -> None:
            pace.see(done, result)
            if line := _line(result):
                bar.console.print(line, style="red", markup=False, highlight=False)
            broken = f", {pace.broken} broken" if pace.broken else ""
            bar.update(task, completed=done, total=total, left=pace.left(total), broken=broken)

        yield observe


class _Pace:
    """How fast cases finish, those of an earlier run left out."""

    def __init__(self) -> None:
        self.broken = 0
        self._since = time.monotonic()
        self._before: int | None = None
        self._done = 0

    def see(self, done: int, result: "Result | None") -> None:
        """Take note of the newest result."""
        if self._before is None:
            self._before = done
        self._done = done
        self.broken += bool(_line(result))

    def left(self, total: int) -> str:
        """Time left, once anything can be said."""
        finished = self._done - (self._before or 0)
        if not finished:
            return "time left unknown"
        seconds = (time.monotonic() - self._since) / finished * (total - self._done)
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s left"


class _Lines:
    """Plain progress: a line for whatever breaks, and one every few seconds."""

    def __init__(self) -> None:
        self._pace = _Pace()
        self._last = time.monotonic()

    def observe(self, done: int, total: int, result: "Result | None") -> None:
        """Say something, or nothing yet."""
        self._pace.see(done, result)
        if line := _line(result):
            console.note(line)
        if result is None and done:
            console.note(f"{done} of {total} cases need not run: finished before, or not claimed")
        now = time.monotonic()
        if now - self._last >= _PAUSE:
            self._last = now
            console.note(f"{done} of {total}, {self._pace.broken} broken, {self._pace.left(total)}")


def _line(result: "Result | None") -> str:
    """A broken case in one line; empty for any other."""
    from glm5_hal.conformance.verdict import BROKEN

    if result is None or result.status not in BROKEN:
        return ""
    return f"{result.status.value} {result.id}"


# --- what was found ---


def _print(outcome: "Outcome", out: Path | None, package: "Package | None") -> None:
    from glm5_hal.conformance.text import LEGEND, Matrix, teach
    from glm5_hal.conformance.verdict import BROKEN, counts

    for result in outcome.results:
        if result.status in BROKEN:
            typer.echo(teach(result) + "\n")
    matrix = Matrix.of(outcome.results)
    console.print_table(("op", *matrix.aspects), matrix.rows())
    typer.echo(f"({LEGEND})")
    for text in _not_run(outcome):
        typer.echo(text)
    typer.echo()
    tally = {name: count for name, count in counts(outcome.results).items() if count}
    resumed = f", {outcome.resumed} of them from before" if outcome.resumed else ""
    typer.echo(", ".join(f"{count} {name}" for name, count in tally.items()) + resumed)
    if package is not None and out is not None:
        from glm5_hal.conformance.package import tar_of

        typer.echo(f"package {package.id}: {out}, {tar_of(out)}")
    typer.echo(f"{outcome.shown}")
    for problem in outcome.problems:
        console.fail(problem)
    typer.echo("failed" if outcome.problems else "passed")


def _not_run(outcome: "Outcome") -> Iterator[str]:
    """The levels without a judged case, each with its reason."""
    from glm5_hal.conformance.verdict import missing_levels

    reasons = missing_levels(outcome.job.profile_cases)
    for result in outcome.results:
        if result.status.value == "NOT_RUN":
            reasons.setdefault(result.aspect, result.message)
    for reason in dict.fromkeys(reasons.values()):
        levels = [level for level, why in reasons.items() if why == reason]
        yield f"not run: {', '.join(levels)}: {reason}"


def _document(outcome: "Outcome", out: Path | None, package: "Package | None") -> dict[str, Any]:
    from glm5_hal.conformance import records
    from glm5_hal.conformance.manifest import warnings
    from glm5_hal.conformance.package import tar_of
    from glm5_hal.conformance.verdict import counts, missing_levels

    return {
        "passed": not outcome.problems,
        "problems": outcome.problems,
        "shown": outcome.shown.to_dict(),
        "counts": counts(outcome.results),
        "levels_without_cases": missing_levels(outcome.job.profile_cases),
        "warnings": warnings(outcome.job),
        "resumed": outcome.resumed,
        "plan": {**outcome.job.plan.to_dict(), "hash": outcome.job.plan.hash},
        "package": None
        if package is None or out is None
        else {"id": package.id, "directory": str(out), "tar": str(tar_of(out))},
        "results": [records.plain(result) for result in outcome.results],
    }
