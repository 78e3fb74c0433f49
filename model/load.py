"""From a checkpoint directory to a model that runs."""

from dataclasses import replace
from pathlib import Path

import torch

from glm5_hal import Runtime
from glm5_hal.model.checkpoint import Checkpoint
from glm5_hal.model.glm5 import GLM5, Options
from glm5_hal.model.ranks import ALONE, Ranks, check_profile
from glm5_hal.model.weights import Progress, load_weights


def load_model(
    directory: str | Path,
    runtime: Runtime,
    *,
    dtype: torch.dtype | None = None,
    latent_eps: float | None = None,
    positions: int | None = None,
    mtp: bool = True,
    options: Options | None = None,
    ranks: Ranks = ALONE,
    progress: Progress | None = None,
) -> GLM5:
    """Load a checkpoint in the published format onto a runtime's backend.

    Args:
        directory: holds config.json and safetensors files.
        runtime: answers the op calls.
        dtype: activation dtype; default: the checkpoint's (bfloat16 for FP8).
        latent_eps: epsilon of the two latent norms; default: the configuration's.
        positions: longest sequence that can be run then; default: the configuration's.
        mtp: take the MTP layer, where there is one; without it there are no drafts.
        options: what the published configuration leaves open.
        ranks: among which the weights are split.
        progress: told (bytes read, bytes in all).

    Raises:
        ConfigError, CheckpointError: naming everything that is wrong.
        RankError: several ranks outside the exact profile.
    """
    check_profile(runtime, ranks.size)
    with Checkpoint.open(directory) as checkpoint:
        config = checkpoint.config
        if latent_eps is not None:
            config = replace(config, latent_norm_eps=latent_eps)
        if positions is not None:
            # rows of the RoPE table are the longest sequence: the cache takes no longer one
            longest = min(positions, config.max_position_embeddings)
            config = replace(config, max_position_embeddings=longest)
        chosen = dtype or checkpoint.default_dtype
        weights = load_weights(
            checkpoint,
            runtime,
            chosen,
            positions=config.max_position_embeddings,
            mtp=mtp,
            ranks=ranks,
            progress=progress,
        )
    return GLM5(config, weights, runtime, dtype=chosen, options=options, ranks=ranks)
