"""`glm5-hal conformance record` and `mutants`: what the suite itself is made and tested with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glm5_hal.cli import console, inputs, loading, options
from glm5_hal.cli.failures import ExitCode
from glm5_hal.cli.outputs import output
from glm5_hal.cli.plan import open_runtime

if TYPE_CHECKING:
    from glm5_hal.conformance.mutants.report import Finding


def record(
    directory: options.CheckpointDir,
    input_ids: Annotated[
        Path,
        typer.Option(metavar="FILE.json", help="A list of token ids, or a list of such lists."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.json", help="Where the shapes go.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens to decode.")] = 3,
    speculative: Annotated[int, typer.Option(min=0, metavar="N", help="Drafts a step.")] = 0,
    backend: options.Backend = None,
) -> None:
    """Run a model once and keep the shapes of its op calls.

    The file, put into conformance/recorded/ of a checkout, makes every distinct shape a case;
    `freeze` then enters the cases into the must-pass lists.
    """
    from glm5_hal.conformance.record import Recorder
    from glm5_hal.model.generate import generate

    sequences = inputs.read_ids(input_ids)
    with output(out) as file:
        runtime = open_runtime(backend)
        header = inputs.read_header(directory)
        inputs.check_ids(header.config, sequences, str(input_ids), max_new_tokens)
        model = loading.load(
            directory,
            runtime,
            dtype=None,
            latent_eps=None,
            positions=max(map(len, sequences)) + max_new_tokens,
            mtp=speculative > 0,
        )
        recorder = Recorder()
        runtime.observers.append(recorder)
        for _ in generate(
            model, sequences, max_new_tokens=max_new_tokens, speculative=speculative, stop=()
        ):
            pass
        file.write_text(recorder.to_json())
    shapes = sum(map(len, recorder.shapes.values()))
    typer.echo(f"{out}: {shapes} shapes of {len(recorder.shapes)} ops")


def mutants(
    only: Annotated[
        str | None, typer.Option(metavar="A,B", help="These mutants; default: all.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Processes.")] = 2,
    json: options.Json = False,
) -> None:
    """Judge deliberately broken backends; exit 1 if the suite lets one live."""
    from glm5_hal.conformance import mutants as suite

    names = tuple(name.strip() for name in only.split(",")) if only else ()
    found = suite.run(names, workers, None if json else _show)
    if json:
        console.print_json(suite.summary(found))
    else:
        console.print_table(
            ("mutant", "", "meant to be found by", "also found by"),
            [(f.mutant, f.outcome.value, f.requirement, ", ".join(f.also)) for f in found.findings],
        )
        typer.echo(
            f"{found.killed} of {len(found.findings)} killed by their own requirement; control: "
            f"{found.control_cases - len(found.control_failures)} of {found.control_cases} passed"
        )
        for failure in found.control_failures:
            console.fail(f"control: {failure.id}: {failure.message}")
    if not found.ok:
        raise typer.Exit(ExitCode.FAILED)


def _show(done: int, total: int, newest: "Finding | None") -> None:
    if newest is not None:
        console.note(f"{done} of {total}: {newest.mutant} {newest.outcome.value}")
