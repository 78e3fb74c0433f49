"""`glm5-hal port`: what is left of a backend, the most useful first."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glm5_hal.cli import console, options, port_watch
from glm5_hal.cli.conformance_run import Numerics, observer
from glm5_hal.cli.failures import CommandError, ExitCode
from glm5_hal.cli.plan import note_default

if TYPE_CHECKING:
    from glm5_hal.conformance.porting.status import OpStatus, Port

app = typer.Typer(no_args_is_help=True, help="Port GLM-5 to a new chip.")


@app.callback()
def port() -> None:
    """Port GLM-5 to a new chip."""


@app.command()
def status(
    backend: options.Backend = None,
    numerics: Numerics = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Again whenever a file of the backend changes.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Show where each op stands, and what to do next.

    Ops that are written are judged by their quick cases; what is left comes first, what the model
    calls most at the top.

    Exit codes: 0 every op passes, 1 something is left, 2 usage, 3 the backend cannot run.
    """
    if watch:
        if json:
            raise CommandError("--watch shows tables; leave out --json, or call again and again")
        port_watch.watch(backend, numerics)
        return
    from glm5_hal.conformance.porting.status import status as judged

    note_default(backend)
    with observer() as observe:
        found = judged(backend, numerics, observe)
    if json:
        console.print_json(_document(found))
    else:
        _print(found)
    if found.left:
        raise typer.Exit(ExitCode.FAILED)


def _print(port: "Port") -> None:
    calls = port.calls
    console.print_table(
        ("op", "state", "cases", "calls"),
        [
            (
                op.op,
                _state(op),
                f"{op.passed}/{op.judged}" if op.judged else "-",
                f"{100 * calls.share(op.op):.0f} %" if op.op in calls.step else "-",
            )
            for op in port.ops
        ],
        right=("cases", "calls"),
    )
    typer.echo("(cases: quick ones that pass; calls: share of the op calls of a prefill or a step)")
    typer.echo()
    for name, part in _parts(port):
        here, total = port.native(part), sum(part.values())
        typer.echo(f"a {name}: {here} of {total} op calls run on {port.plan.backend} and pass")
    typer.echo()
    _print_next(port)


def _state(op: "OpStatus") -> str:
    from glm5_hal.conformance.porting.status import State

    if op.first is None or op.state is State.PASSES:
        return op.state.value
    if op.state is State.UNJUDGED:
        return f"needs the claim {op.first.aspect}"
    return f"failing at {op.first.requirement}"


def _parts(port: "Port") -> "tuple[tuple[str, Mapping[str, int]], ...]":
    return ("layer", port.calls.layer), ("step", port.calls.step)


def _print_next(port: "Port") -> None:
    from glm5_hal.conformance.porting.status import State
    from glm5_hal.conformance.text import teach
    from glm5_hal.porting.unwritten import spec_of

    if not port.left:
        command = f"glm5-hal conformance run --backend {port.plan.backend} --out result"
        typer.echo(f"every op passes its quick cases; next: {command}")
        return
    first = port.left[0]
    if first.first is None:
        typer.echo(f"next: write {first.op} in {first.place}")
    elif first.state is State.UNJUDGED:
        level = first.first.aspect
        typer.echo(f"next: claim {level} in the capabilities, or {first.op} is judged by no case")
    else:
        typer.echo(teach(first.first))
        typer.echo()
        typer.echo(f"next: mend {first.op} in {first.place}")
    typer.echo(f"spec: {spec_of(first.op)}")


def _document(port: "Port") -> dict[str, Any]:
    return {
        "backend": port.plan.backend,
        "numerics": port.plan.numerics.value,
        "plan": port.plan.hash,
        "left": len(port.left),
        "served": {
            name: {"native": port.native(part), "calls": sum(part.values())}
            for name, part in _parts(port)
        },
        "ops": [_plain(op, port) for op in port.ops],
    }


def _plain(op: "OpStatus", port: "Port") -> dict[str, Any]:
    from glm5_hal.conformance import records
    from glm5_hal.porting.unwritten import spec_of

    return {
        "op": op.op,
        "state": op.state.value,
        "passed": op.passed,
        "judged": op.judged,
        "calls": {name: part.get(op.op, 0) for name, part in _parts(port)},
        "first": records.plain(op.first) if op.first else None,
        "place": op.place,
        "spec": spec_of(op.op),
    }
