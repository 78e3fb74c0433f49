"""`glm5-hal bench`: how long ops and whole models take, beside a peer and beside a floor."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from glm5_hal.cli import console, inputs, options
from glm5_hal.cli.bench_check import check_baseline
from glm5_hal.cli.bench_run import measured, new_directory, show, write
from glm5_hal.cli.checkpoint import write_random
from glm5_hal.cli.failures import CommandError
from glm5_hal.cli.outputs import output
from glm5_hal.cli.plan import note_default

if TYPE_CHECKING:
    from glm5_hal.conformance.bench.cases import OpCase
    from glm5_hal.conformance.bench.running import Model, Settings
    from glm5_hal.model.config import ModelConfig

DEFAULT_SHAPES = "glm5,mid"
DEFAULT_CONTEXTS = (1024, 4096)
_INTERRUPTED = 130

Peer = Literal["transformers", "torch", "none"]


def bench(
    names: Annotated[
        str | None, typer.Argument(metavar="[A,B]", help="Ops that --ops times; default: all.")
    ] = None,
    ops: Annotated[
        bool, typer.Option("--ops", help="Time ops, each beside the obvious torch expression.")
    ] = False,
    shapes: Annotated[
        str, typer.Option(metavar="CONFIG,...", help="Models whose shapes --ops takes.")
    ] = DEFAULT_SHAPES,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="CONFIG_OR_DIR",
            help="Time prefill and decode; of a configuration with random weights.",
        ),
    ] = None,
    contexts: Annotated[
        str | None,
        typer.Option(metavar="N,...", help="Prompt lengths of --model; default: 1024,4096."),
    ] = None,
    against: Annotated[
        Peer | None,
        typer.Option(help="Peer of --model; default: transformers. torch is our model on it."),
    ] = None,
    backend: options.Backend = None,
    numerics: Annotated[
        str | None,
        typer.Option(metavar="PROFILE", help="Default: GLM5_HAL_NUMERICS, else fast."),
    ] = None,
    dtype: Annotated[
        options.DType | None, typer.Option(help="Weights and activations; default: bf16.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of each process; default: torch's.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, metavar="N", help="Rounds.")] = 3,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A new directory: bench.json, result.md, plots."),
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the ratios there, for --check.")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Hold the ratios of a baseline; exit 1 if one is worse."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Measure time and memory.

    Sides take turns, A B A B, in processes of their own; a warm-up goes before every sample. Times
    are compared within the run only: floors come from peaks that are measured in it, and --check
    compares ratios to torch.
    """
    from glm5_hal.conformance.bench.running import Settings

    _check_asked(ops, names, model, against, baseline, check)
    chosen = Settings(backend, numerics, dtype or "bf16", threads or _threads(), repeats)
    with _interruptible():
        if check is not None:
            check_baseline(check, chosen, dtype, threads, out, json)
            return
        note_default(backend)
        with ExitStack() as stack:
            cases = _cases(shapes, names) if ops else []
            file = stack.enter_context(output(baseline)) if baseline else None
            folder = stack.enter_context(new_directory(out)) if out else None
            wanted = _model(stack, model, contexts, against, chosen) if model else None
            report = measured(chosen, cases, wanted)
            if folder is not None:
                write(report, folder)
            if file is not None:
                from glm5_hal.conformance.bench.baseline import Baseline

                file.write_text(Baseline.of(report).text())
        show(report, out, json)


def _check_asked(
    ops: bool,
    names: str | None,
    model: str | None,
    against: Peer | None,
    baseline: Path | None,
    check: Path | None,
) -> None:
    """Refuse what does not fit together."""
    if names is not None and not ops:
        raise CommandError(f"{names!r} names ops: say --ops {names}")
    if check is not None and (ops or model or baseline):
        raise CommandError("--check measures what its baseline names; leave the others out")
    if check is None and not ops and model is None:
        raise CommandError("say what to measure: --ops, --model CONFIG_OR_DIR, or both")
    if against is not None and model is None:
        raise CommandError("--against is about --model; ops are always held against torch")
    if baseline is not None and not ops:
        raise CommandError("--baseline holds the ratios of ops: say --ops")


def _threads() -> int:
    import torch

    return torch.get_num_threads()


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        console.note("interrupted; nothing was written")
        raise typer.Exit(_INTERRUPTED) from None


# --- what is measured ---


def _cases(shapes: str, names: str | None) -> "list[OpCase]":
    from glm5_hal.conformance.bench.cases import chosen
    from glm5_hal.model.config import ModelConfig

    configs = [ModelConfig.load(name) for name in _split(shapes)]
    if not configs:
        raise CommandError("--shapes names no configuration")
    return chosen(configs, _split(names or ""))


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _model(
    stack: ExitStack, name: str, contexts: str | None, against: Peer | None, settings: "Settings"
) -> "Model":
    """The checkpoint; of a configuration a random one, gone with the stack."""
    from glm5_hal.conformance.bench import peer
    from glm5_hal.conformance.bench.running import Model
    from glm5_hal.model.config import ModelConfig

    beside = against or "transformers"
    if beside == "transformers":
        peer.require()
    directory = Path(name)
    written = directory.is_dir()
    config = inputs.read_header(directory).config if written else ModelConfig.load(name)
    lengths = _contexts(contexts, config)
    if not written:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="glm5-hal-bench-"))
        directory = Path(scratch) / "checkpoint"
        storage: Literal["bf16", "fp32"] = "fp32" if settings.dtype == "fp32" else "bf16"
        write_random(config, directory, seed=0, dtype=storage, mtp=False)
    return Model(name, directory, config, lengths, "" if beside == "none" else beside)


def _contexts(text: str | None, config: "ModelConfig") -> list[int]:
    from glm5_hal.conformance.bench.running import longest

    most = longest(config)
    if text is None:
        lengths = [length for length in DEFAULT_CONTEXTS if length <= most]
    else:
        try:
            lengths = [int(part) for part in _split(text)]
        except ValueError:
            raise CommandError(f"--contexts {text}: expected lengths, such as 1024,4096") from None
    if not lengths or min(lengths) < 1:
        raise CommandError(f"--contexts: expected lengths from 1 to {most}, such as 1024,4096")
    if max(lengths) > most:
        room = config.max_position_embeddings - most
        raise CommandError(
            f"--contexts: {max(lengths)} tokens are too long; the model's longest sequence "
            f"(max_position_embeddings) is {config.max_position_embeddings}, and {room} are for "
            f"the tokens that are timed behind the prompt: at most {most}"
        )
    return sorted(set(lengths))
