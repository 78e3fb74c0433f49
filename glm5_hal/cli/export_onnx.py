"""`glm5-hal export-onnx`: a whole model as ONNX graphs that run without this package."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from glm5_hal.cli import console, inputs, onnx_extra, options
from glm5_hal.cli.failures import CommandError, ExitCode

if TYPE_CHECKING:
    from glm5_hal.model.onnx_export.export import Example, Form

_EXAMPLE_LENGTH = 12


def export_onnx(
    directory: options.CheckpointDir,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new or empty directory.")],
    numerics: Annotated[
        Literal["fast", "exact"], typer.Option(help="Numeric profile of the graphs.")
    ] = "exact",
    opset: Annotated[
        int | None, typer.Option(metavar="N", help="Version of the standard; default: 21.")
    ] = None,
    digits: Annotated[
        Literal["int8", "uint8"],
        typer.Option(
            help="Left side of the exact profile's products; uint8 is faster where the runtime "
            "does not saturate."
        ),
    ] = "int8",
    positions: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Longest sequence; default: the configuration's."),
    ] = None,
    dtype: options.ActivationDType = None,
    latent_eps: options.LatentEps = None,
    no_example: Annotated[
        bool,
        typer.Option("--no-example", help="Do not run the model here for a digest to compare."),
    ] = False,
) -> None:
    """Write prefill and decode graphs, the weights, and a script that runs them.

    In the exact profile the manifest holds a prompt and the SHA-256 of its logits, computed here on
    the CPU: wherever the graphs run, run_example.py compares.
    """
    onnx_extra.require("export-onnx")
    from glm5_hal import Numerics
    from glm5_hal.kernels.onnx import OPSET, opset_problem
    from glm5_hal.model.onnx_export.export import Form, export
    from glm5_hal.staging import target_problem

    opset = OPSET if opset is None else opset
    if problem := opset_problem(opset) or target_problem(out):
        raise CommandError(problem)
    header = inputs.read_header(directory)
    chosen = options.torch_dtype(dtype)
    form = Form(Numerics(numerics), opset, digits, chosen, latent_eps, positions)
    example = None
    if numerics == "exact" and not no_example:
        longest = min(positions or _EXAMPLE_LENGTH, header.config.max_position_embeddings)
        example = _example(directory, form, header.config.vocab_size, longest)
    try:
        with console.progress("writing graphs") as advance:
            manifest = export(directory, out, form, example=example, progress=advance)
    except OSError as error:
        raise CommandError(f"{out} was not written: {error}", ExitCode.FAILED) from None
    total = sum(path.stat().st_size for path in out.iterdir())
    typer.echo(
        f"wrote {out}: {numerics}, opset {opset}, {manifest['dtype']}, {len(manifest['files'])} "
        f"files, {total:,} bytes"
    )
    if example is not None:
        typer.echo(f"example: {len(example.ids)} tokens, logits sha256 {example.sha256}")


def _example(directory: Path, form: "Form", vocabulary: int, longest: int) -> "Example":
    """A prompt, and what the CPU backend makes of it."""
    from glm5_hal import open_runtime, philox
    from glm5_hal.cli.intermediates import stack
    from glm5_hal.conformance.families.judging import digest
    from glm5_hal.model.generate import sequence_logits
    from glm5_hal.model.load import load_model
    from glm5_hal.model.onnx_export.export import Example

    length = min(_EXAMPLE_LENGTH, longest)
    drawn = philox.uniform24(0, philox.stream_of("example of an export"), 0, length)
    ids = [int(number) % vocabulary for number in drawn]
    with console.progress("computing the example") as advance:
        model = load_model(
            directory,
            open_runtime("cpu", form.numerics.value),
            dtype=form.dtype,
            latent_eps=form.latent_eps,
            positions=length,
            mtp=False,
            progress=advance,
        )
        return Example(tuple(ids), digest(stack(sequence_logits(model, [ids]))))
