"""Arguments and options that several commands take."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    import torch

DType = Literal["fp32", "bf16"]


def _check_seed(seed: int) -> int:
    if not 0 <= seed < 1 << 128:
        raise typer.BadParameter(f"{seed} is not in [0, 2^128)")
    return seed


Seed = Annotated[
    int, typer.Option(callback=_check_seed, metavar="N", help="Of the random numbers.")
]

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]
Config = Annotated[
    str, typer.Argument(help="A bundled configuration, such as glm5 or tiny, or a path.")
]
CheckpointDir = Annotated[
    Path, typer.Argument(metavar="DIR", help="A checkpoint: config.json and safetensors files.")
]
Backend = Annotated[
    str | None,
    typer.Option(metavar="NAME[:INDEX]", help="Where to run; default: GLM5_HAL_BACKEND, else cpu."),
]
ActivationDType = Annotated[
    DType | None,
    typer.Option("--dtype", help="Activations; default: the checkpoint's, bf16 for fp8."),
]
LatentEps = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Epsilon of the two latent norms; default: the configuration's, 1e-5.",
    ),
]


def torch_dtype(name: DType | None) -> "torch.dtype | None":
    """The dtype that an option names."""
    import torch

    return {None: None, "fp32": torch.float32, "bf16": torch.bfloat16}[name]
