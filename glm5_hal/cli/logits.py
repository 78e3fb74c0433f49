"""`glm5-hal logits`: the logits of whole sequences, and on request every intermediate."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glm5_hal.cli import console, inputs, loading, options, ranks
from glm5_hal.cli.failures import CommandError
from glm5_hal.cli.intermediates import Trace, stack
from glm5_hal.cli.outputs import output
from glm5_hal.cli.plan import open_runtime, print_summary, summary

if TYPE_CHECKING:
    from torch import Tensor

    from glm5_hal.model.glm5 import GLM5


def logits(
    directory: options.CheckpointDir,
    input_ids: Annotated[
        Path,
        typer.Option(metavar="FILE.json", help="A list of token ids, or a list of such lists."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.safetensors", help="Where logits go.")],
    dtype: options.ActivationDType = None,
    latent_eps: options.LatentEps = None,
    chunk: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Tokens of a sequence in a pass; default: all."),
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE.safetensors", help="Where intermediates go.")
    ] = None,
    backend: options.Backend = None,
    number: ranks.Option = None,
) -> None:
    """Write the logits of every position.

    The file holds `logits`, fp32, sequences x longest length x vocabulary, with NaN behind a
    sequence's end, and `lengths`; the digest that is printed is of the logits' dtype, shape and
    bytes. A trace holds every layer's intermediates in the same form: -1 behind a sequence's end
    in integers, and index scores -Inf where a token does not see.
    """
    import torch

    from glm5_hal.conformance.families.judging import digest

    if not ranks.started(number):
        return
    sequences = inputs.read_ids(input_ids)
    if trace is not None and trace.resolve() == out.resolve():
        raise CommandError(f"--out and --trace both name {out}; name two files")
    with ExitStack() as claimed:
        logits_file = claimed.enter_context(output(out))
        trace_file = claimed.enter_context(output(trace)) if trace is not None else None
        runtime = open_runtime(backend)
        joined = ranks.join(runtime)
        inputs.check_ids(inputs.read_header(directory).config, sequences, str(input_ids))
        longest = max(map(len, sequences))
        model = loading.load(
            directory,
            runtime,
            dtype=dtype,
            latent_eps=latent_eps,
            positions=longest,
            ranks=joined,
        )
        lengths = {"lengths": torch.tensor([len(s) for s in sequences], dtype=torch.int32)}
        seen = Trace([len(s) for s in sequences], runtime.backend.to_host) if trace_file else None
        rows = _compute(model, sequences, chunk, seen)
        if joined.rank:
            return
        metadata = _metadata(model)
        stacked = stack(rows)
        logits_file.write({"logits": stacked, **lengths}, metadata)
        typer.echo(f"wrote {out}: logits {list(stacked.shape)}, sha256 {digest(stacked)}")
        if seen is not None and trace_file is not None:
            tensors = seen.tensors()
            trace_file.write({**tensors, **lengths}, metadata)
            typer.echo(f"wrote {trace}: {len(tensors)} intermediates")
    print_summary(runtime)


def _metadata(model: "GLM5") -> dict[str, str]:
    """What the numbers depend on besides checkpoint and input."""
    plan = summary(model.runtime)
    return {
        "plan_hash": plan.pop("hash"),
        **plan,
        "dtype": str(model.dtype).removeprefix("torch."),
        "latent_eps": str(model.config.latent_norm_eps),
    }


def _compute(
    model: "GLM5", sequences: list[list[int]], chunk: int | None, seen: Trace | None
) -> "list[Tensor]":
    from glm5_hal.model.generate import sequence_logits

    with console.progress("computing logits") as advance:
        return sequence_logits(
            model,
            sequences,
            chunk=chunk,
            probe=seen.see if seen else None,
            before=seen.begin if seen else None,
            progress=advance,
        )
