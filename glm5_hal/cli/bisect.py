"""`glm5-hal bisect`: the first op call of a run whose output differs, and why."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glm5_hal.cli import bisect_growth, bisect_shown, bisect_traces, console, options, watched
from glm5_hal.cli.failures import CommandError, ExitCode
from glm5_hal.cli.outputs import output
from glm5_hal.cli.plan import open_runtime, summary
from glm5_hal.cli.watched import Run

if TYPE_CHECKING:
    from glm5_hal import Runtime
    from glm5_hal.conformance.bisect.casefile import CaseFile
    from glm5_hal.conformance.bisect.running import Bisection

CASES = Path("glm5-bisect")


def bisect(
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="A checkpoint: config.json and safetensors files."),
    ] = None,
    input_ids: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="A list of token ids, or a list of such lists."),
    ] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="NAME[:INDEX]", help="The backend to judge.")
    ] = None,
    against: Annotated[
        str, typer.Option(metavar="NAME[:INDEX]", help="The backend that is taken to be right.")
    ] = "cpu",
    numerics: watched.Numerics = "exact",
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Where a case goes that shows the fault alone."),
    ] = CASES,
    dtype: options.ActivationDType = None,
    latent_eps: options.LatentEps = None,
    chunk: watched.Chunk = None,
    trace: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Twice, without DIR: compare two traces, the one to judge first.",
        ),
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Without DIR: ask a written case again.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Find the first op call whose output differs between two backends.

    One backend runs the model; the other is asked every op call with the same inputs, so that a
    first fault hides no later one. With --numerics fast, rank ops by their error against float64.

    Exit codes: 0 no difference, 1 a difference, 2 usage, 3 a backend cannot run.
    """
    if trace:
        _refuse("--trace", DIR=directory, input_ids=input_ids, backend=backend, replay=replay)
        bisect_traces.compare(trace, out, json)
        return
    if replay is not None:
        _refuse("--replay", DIR=directory, input_ids=input_ids)
        _replay(replay, backend, json)
        return
    if directory is None or input_ids is None:
        raise CommandError(
            "give a checkpoint and --input-ids FILE.json; or two --trace FILE; or --replay FILE"
        )
    if backend is None:
        raise CommandError("give the backend to judge with --backend NAME; `glm5-hal backends`")
    judged, right = open_runtime(backend, numerics), open_runtime(against, numerics)
    run = Run.asked(directory, input_ids, dtype, latent_eps, chunk)
    for title, runtime in (("judged", judged), ("against", right)):
        short = summary(runtime)
        console.note(f"{title}: {short['backend']}, {short['numerics']}, {short['hash']}")
    if numerics == "fast":
        bisect_growth.rank(run, judged, right, json)
        return
    _exact(run, judged, right, out, json)


def _refuse(mode: str, **given: object) -> None:
    """Options that a mode does not take."""
    for name, value in given.items():
        if value is not None:
            shown = name if name.isupper() else f"--{name.replace('_', '-')}"
            raise CommandError(f"{mode} takes no {shown}: what was run stands in the file")


def _exact(run: Run, judged: "Runtime", right: "Runtime", out: Path, json: bool) -> None:
    from glm5_hal.conformance.bisect.running import bisect

    if out.exists() and not out.is_dir():
        raise CommandError(f"--out {out} is a file; name a directory")
    found = bisect(judged, right, run.load, run.prompts("bisecting"))
    names = judged.plan.backend, right.plan.backend
    case = _case(found, names)
    path = write_case(case, out) if case is not None else None
    if json:
        console.print_json(bisect_shown.document(found, names, path))
    else:
        bisect_shown.show(found, names, path)
    finish(found.differs, found.unjudged)


def finish(differs: bool, unjudged: bool = False) -> None:
    """End with the code that says what was found."""
    if differs:
        raise typer.Exit(ExitCode.FAILED)
    if unjudged:
        raise typer.Exit(ExitCode.UNUSABLE)


def _case(found: "Bisection", names: tuple[str, str]) -> "CaseFile | None":
    from glm5_hal.conformance.bisect.casefile import CaseFile

    guilty, why = found.findings.guilty, found.explanation
    if guilty is None or why is None:
        return None
    return CaseFile(
        call=why.call,
        expected=why.expected,
        found=why.found,
        numerics="exact",
        place=guilty.site.place,
        site=guilty.site.name,
        backends=names,
        requirements=why.reason.requirements,
    )


def write_case(case: "CaseFile", out: Path) -> Path:
    """Write a case into a directory; returns the file."""
    name = case.site.replace("/", ".").replace("#", "-").replace(":", ".")
    path = out / f"{name}.safetensors"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"--out {out} cannot be made: {error.strerror}") from None
    with output(path) as file:
        file.write(*case.content())
    return path


def _replay(path: Path, backend: str | None, json: bool) -> None:
    from glm5_hal.conformance.bisect import casefile
    from glm5_hal.conformance.bisect.replaying import replay

    case = casefile.read(path)
    outcome = replay(case, open_runtime(backend, case.numerics))
    if json:
        console.print_json(bisect_shown.replay_document(case, outcome))
    else:
        bisect_shown.show_replay(case, outcome)
    finish(outcome.differs)
