"""What `glm5-hal bisect` and `glm5-hal trace` run: a checkpoint, token ids, how they are cut."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from glm5_hal.cli import console, inputs, loading, options

if TYPE_CHECKING:
    from glm5_hal import Runtime
    from glm5_hal.conformance.bisect.running import Prompts
    from glm5_hal.model.config import ModelConfig
    from glm5_hal.model.glm5 import GLM5

Profile = Literal["exact", "fast"]
Numerics = Annotated[Profile, typer.Option(help="Numeric profile.")]
Chunk = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Tokens of a sequence in a pass; default: all."),
]


@dataclass(frozen=True)
class Run:
    """A run as it was asked for.

    Attributes:
        directory: the checkpoint.
        input_ids: file of the token ids.
        dtype, latent_eps, chunk: as given; None: the default.
        config: of the checkpoint.
        sequences: the token ids.
    """

    directory: Path
    input_ids: Path
    dtype: options.DType | None
    latent_eps: float | None
    chunk: int | None
    config: "ModelConfig"
    sequences: list[list[int]]

    @classmethod
    def asked(
        cls,
        directory: Path,
        input_ids: Path,
        dtype: options.DType | None,
        latent_eps: float | None,
        chunk: int | None,
    ) -> "Run":
        """Check what was asked for, before any weight is read."""
        sequences = inputs.read_ids(input_ids)
        config = inputs.read_header(directory).config
        inputs.check_ids(config, sequences, str(input_ids))
        return cls(directory, input_ids, dtype, latent_eps, chunk, config, sequences)

    @property
    def options(self) -> dict[str, str]:
        """What the numbers depend on besides checkpoint and tokens, where it is no default."""
        given = {"dtype": self.dtype, "latent-eps": self.latent_eps, "chunk": self.chunk}
        return {name: str(value) for name, value in given.items() if value is not None}

    @property
    def arguments(self) -> list[str]:
        """As they are typed."""
        typed = [str(self.directory), "--input-ids", str(self.input_ids)]
        for name, value in self.options.items():
            typed += [f"--{name}", value]
        return typed

    def load(self, runtime: "Runtime") -> "GLM5":
        """The model on a runtime, with a progress bar."""
        return loading.load(
            self.directory,
            runtime,
            dtype=self.dtype,
            latent_eps=self.latent_eps,
            positions=max(map(len, self.sequences)),
        )

    def prompts(self, label: str) -> "Prompts":
        """The tokens to run, each run under a progress bar."""
        from glm5_hal.conformance.bisect.running import Prompts

        return Prompts(self.sequences, self.chunk, lambda: console.progress(label))
