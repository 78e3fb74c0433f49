"""Reassembling what passes over packed tokens give into tensors [sequence, token, ...]."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from glm5_hal.model.kv_cache import Step

SCORES = "index_scores_masked"
"""[T, S]: the one intermediate whose width grows with the context."""


class Trace:
    """Collects the model's intermediates by name and sequence.

    Args:
        lengths: of the sequences.
        to_host: how a device tensor reaches the host.
    """

    def __init__(self, lengths: Sequence[int], to_host: "Callable[[Tensor], Tensor]") -> None:
        self._lengths = lengths
        self._to_host = to_host
        self._rows: Sequence[int] = ()
        self._counts: Sequence[int] = ()
        self._parts: dict[str, list[list[Tensor]]] = defaultdict(lambda: [[] for _ in lengths])

    def begin(self, rows: Sequence[int], step: "Step") -> None:
        """A pass begins over tokens of the sequences `rows`."""
        self._rows, self._counts = rows, step.counts

    def see(self, name: str, value: "Tensor") -> None:
        """Take an intermediate [T, ...] of this pass."""
        import torch

        pieces = torch.split(self._to_host(value), list(self._counts))
        for row, piece in zip(self._rows, pieces, strict=True):
            self._parts[name][row].append(piece)

    def tensors(self) -> "dict[str, Tensor]":
        """Every intermediate, [B, T, ...]; see `stack` for what stands behind a sequence's end."""
        import torch

        stacked = {}
        while self._parts:  # drop the pieces as they are copied: a trace is large
            name, rows = self._parts.popitem()
            if name.endswith(SCORES):
                rows = [[_widened(part, max(self._lengths)) for part in row] for row in rows]
            stacked[name] = stack([torch.cat(row) for row in rows])
        return stacked


def stack(sequences: "Sequence[Tensor]") -> "Tensor":
    """[B, T, ...] of B tensors [length, ...]; behind a length stands NaN, or -1 in integers."""
    first = sequences[0]
    fill = float("nan") if first.is_floating_point() else -1
    out = first.new_full((len(sequences), max(map(len, sequences)), *first.shape[1:]), fill)
    for row, sequence in enumerate(sequences):
        out[row, : len(sequence)] = sequence
    return out


def _widened(scores: "Tensor", width: int) -> "Tensor":
    """Scores [T, S] as [T, width]: what a token cannot see has the score -Inf."""
    from torch.nn.functional import pad

    return pad(scores, (0, width - scores.shape[1]), value=float("-inf"))
