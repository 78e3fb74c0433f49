"""`glm5-hal trace`: digests of everything that each op call of a run was given and gave."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glm5_hal.cli import options, watched
from glm5_hal.cli.failures import CommandError
from glm5_hal.cli.outputs import output
from glm5_hal.cli.plan import open_runtime, print_summary, summary
from glm5_hal.cli.watched import Run

if TYPE_CHECKING:
    from glm5_hal import Runtime
    from glm5_hal.conformance.bisect.running import TracedRun
    from glm5_hal.conformance.bisect.tracefile import Origin
    from glm5_hal.model.config import ModelConfig


def trace(
    directory: options.CheckpointDir,
    input_ids: Annotated[
        Path,
        typer.Option(metavar="FILE.json", help="A list of token ids, or a list of such lists."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the trace goes.")],
    backend: options.Backend = None,
    numerics: watched.Numerics = "exact",
    tensors: Annotated[
        str | None,
        typer.Option(
            metavar="CALL,...",
            help="Calls to keep whole, with their weights: layer3.topk, layer3, or a call's name.",
        ),
    ] = None,
    dtype: options.ActivationDType = None,
    latent_eps: options.LatentEps = None,
    chunk: watched.Chunk = None,
) -> None:
    """Record a run, for `glm5-hal bisect --trace` to compare machines.

    The file holds a SHA-256 of every tensor that an op call was given or gave and of every weight,
    the token ids and the hash of the plan; whole tensors only where --tensors asks for them.
    """
    from glm5_hal.conformance.bisect.running import traced
    from glm5_hal.conformance.bisect.tracefile import content

    with output(out) as file:
        runtime = open_runtime(backend, numerics)
        run = Run.asked(directory, input_ids, dtype, latent_eps, chunk)
        whole = _selectors(tensors, run.config)
        done = traced(runtime, run.load, run.prompts("tracing"), whole)
        if whole and not done.recorder.kept:
            raise CommandError(f"--tensors {tensors}: the run makes no such call")
        origin = _origin(run, runtime, done, out)
        file.write(*content(origin, done.recorder))
    kept = f", {len(done.recorder.kept)} of them whole" if whole else ""
    size = out.stat().st_size
    typer.echo(f"wrote {out}: {len(done.recorder.calls)} op calls{kept}, {size:,} bytes")
    typer.echo(f"weights {origin.checkpoint_digest}")
    print_summary(runtime)


def _selectors(text: str | None, config: "ModelConfig") -> list[str]:
    """What --tensors names, as far as it can be checked before the run."""
    selectors = [part.strip() for part in (text or "").split(",") if part.strip()]
    for selector in selectors:
        _check_selector(selector, config.num_hidden_layers)
    return selectors


def _check_selector(selector: str, layers: int) -> None:
    from glm5_hal.contract import OPS

    place, _, rest = selector.rpartition(":")[2].partition(".")
    if place not in ("model", *(f"layer{number}" for number in range(layers))):
        raise CommandError(
            f"--tensors {selector}: no part of this model is called {place!r}; expected model, or "
            f"layer0 to layer{layers - 1}"
        )
    names = [part.partition("#")[0] for part in rest.split("/")] if rest else []
    if unknown := [name for name in names if name not in OPS]:
        raise CommandError(f"--tensors {selector}: no op {unknown[0]!r}; ops: {', '.join(OPS)}")


def _origin(run: Run, runtime: "Runtime", done: "TracedRun", out: Path) -> "Origin":
    from glm5_hal.conformance.bisect.tracefile import Origin

    plan = summary(runtime)
    return Origin(
        backend=plan["backend"],
        plan_hash=plan["hash"],
        numerics=plan["numerics"],
        contract_version=runtime.plan.contract_version,
        checkpoint=str(run.directory),
        weights=done.weights,
        ids=run.sequences,
        options=run.options,
        command=shlex.join(_command(run, plan["backend"], plan["numerics"], out)),
    )


def _command(run: Run, backend: str, numerics: str, out: Path) -> Sequence[str]:
    """What is typed for this trace, but for --tensors."""
    chosen = ("--backend", backend.removesuffix(":0"), "--numerics", numerics)
    return ["glm5-hal", "trace", *run.arguments, *chosen, "--out", str(out)]
