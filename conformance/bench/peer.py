"""transformers' GlmMoeDsa as a contender: the same checkpoint, ids and dtype, attention by SDPA."""

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from glm5_hal.conformance.bench.plain_torch import PlainTorch
from glm5_hal.conformance.errors import UnusableError
from glm5_hal.model.config import ModelConfig
from glm5_hal.model.params import parameter_table

OLDEST = (5, 23)
"""The first release whose index scores have their ReLU."""
PACKAGE = "transformers"


def require() -> None:
    """Refuse early what could not be compared with.

    Raises:
        UnusableError: the package is missing or too old.
    """
    wanted = ".".join(map(str, OLDEST))
    advice = f"pip install 'transformers>={wanted}', or choose --against torch"
    if importlib.util.find_spec(PACKAGE) is None:
        raise UnusableError(f"{PACKAGE} is not installed: {advice}")
    found = version(PACKAGE)
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
        raise UnusableError(f"{PACKAGE} {found} computes other index scores: {advice}")


def label(peer: str) -> str:
    """A peer with its version, for a report."""
    if peer == PACKAGE:
        return f"{PACKAGE} {version(PACKAGE)}, sdpa"
    return "our model in plain torch" if peer else ""


def bytes_needed(config: ModelConfig, tokens: int, item: int) -> int:
    """Memory of a prefill of `tokens`, with `item` bytes a weight.

    It holds the scores of all index heads in float32 twice, before and after a ReLU, and two
    masks of 4 bytes a pair of tokens. On mid at 8,192 tokens: 18.3 GB, and 18.2 GB were measured.
    """
    pairs = tokens * tokens * (2 * 4 * config.index_n_heads + 8)
    return pairs + parameter_table(config).total_without_mtp * item


class Transformers:
    """The model, loaded.

    Args:
        directory: of the checkpoint.
        dtype: of weights and activations.
        device: a torch device.
    """

    def __init__(self, directory: Path, dtype: torch.dtype, device: str) -> None:
        transformers: Any = importlib.import_module(PACKAGE)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self._device = PlainTorch(0, device)
        model: Any = transformers.GlmMoeDsaForCausalLM.from_pretrained(
            directory, attn_implementation="sdpa", dtype=dtype
        )
        self._model = model.eval().to(self._device.device)

    @torch.inference_mode()
    def tokens(self, ids: Sequence[int], number: int) -> Iterator[int]:
        """Greedy tokens after a prompt, each as soon as it is known on the host."""
        given, cache = torch.tensor([list(ids)], device=self._device.device), None
        for _ in range(number):
            out = self._model(given, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = out.past_key_values
            given = out.logits[:, -1].argmax(-1, keepdim=True)
            yield int(given)
