"""From options to a model that runs."""

from pathlib import Path
from typing import TYPE_CHECKING

from glm5_hal.cli import console
from glm5_hal.cli.options import DType, torch_dtype

if TYPE_CHECKING:
    from glm5_hal import Runtime
    from glm5_hal.model.glm5 import GLM5, Options
    from glm5_hal.model.ranks import Ranks


def load(
    directory: Path,
    runtime: "Runtime",
    *,
    dtype: DType | None,
    latent_eps: float | None,
    positions: int,
    mtp: bool = False,
    options: "Options | None" = None,
    ranks: "Ranks | None" = None,
) -> "GLM5":
    """`load_model` with a progress bar."""
    from glm5_hal.model.load import load_model
    from glm5_hal.model.ranks import ALONE

    with console.progress("loading weights") as advance:
        return load_model(
            directory,
            runtime,
            dtype=torch_dtype(dtype),
            latent_eps=latent_eps,
            positions=positions,
            mtp=mtp,
            options=options,
            ranks=ranks or ALONE,
            progress=advance,
        )
