"""Faults of index_scores."""

from dataclasses import replace

import torch
from torch import Tensor

from glm5_hal import Cache, PagedContext
from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.conformance.mutants.mutant import mutant


def _products(q: Tensor, keys: Cache, context: PagedContext, token: int) -> Tensor:
    """Products of one token's heads with the keys that it sees: [H, S] float32."""
    rows = keys.tensor[context.slots(token, keys.page_size)].float()
    return q[token].float() @ rows.T


@mutant(
    "index-scores-no-relu",
    "INDEX-SCORES-1",
    "The ReLU between the products and their weighted sum is left out.",
)
class NoReluIndexScores(CpuBackend):
    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        out = torch.full((q.shape[0], context.max_length), -torch.inf)
        for token in range(q.shape[0]):
            dots = _products(q, keys, context, token)
            out[token, : dots.shape[1]] = (w[token] * scale) @ dots
        return out


@mutant(
    "index-scores-bf16-weights",
    "INDEX-SCORES-1",
    "The head weights are cast to the dtype of the queries.",
)
class NarrowWeightsIndexScores(CpuBackend):
    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        return super().index_scores(q, w.bfloat16().float(), keys, context, scale)


@mutant(
    "index-scores-own-scale",
    "INDEX-SCORES-1",
    "The kernel computes the scale from the shapes instead of taking the one it is given.",
)
class OwnScaleIndexScores(CpuBackend):
    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        own = q.shape[1] ** -0.5 * q.shape[2] ** -0.5
        return super().index_scores(q, w, keys, context, own)


@mutant(
    "index-scores-zero-behind",
    "INDEX-SCORES-2",
    "Columns behind a length keep the zeros of their buffer, and zero beats a negative score.",
)
class ZeroBehindIndexScores(CpuBackend):
    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        out = super().index_scores(q, w, keys, context, scale)
        behind = torch.arange(out.shape[1]) >= context.lengths.unsqueeze(1)
        return out.masked_fill(behind, 0.0)


@mutant(
    "index-scores-full-page-masked",
    "INDEX-SCORES-2",
    "The mask of the last page is `place < length % page_size`, false where the page is full.",
)
class FullPageMaskedIndexScores(CpuBackend):
    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        out = super().index_scores(q, w, keys, context, scale)
        place = torch.arange(out.shape[1])
        lengths = context.lengths.unsqueeze(1)
        full = lengths % keys.page_size == 0
        return out.masked_fill(full & (place >= lengths - keys.page_size), -torch.inf)


@mutant(
    "index-scores-last-tile",
    "INDEX-SCORES-3",
    "Keys go in tiles of 64; the last tile of the longest sequence adds its heads backwards.",
)
class LastTileIndexScores(CpuBackend):
    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        out = super().index_scores(q, w, keys, context, scale)
        backwards = super().index_scores(q.flip(1), w.flip(1), keys, context, scale)
        whole = context.max_length // 64 * 64
        return torch.cat((out[:, :whole], backwards[:, whole:]), dim=1)


@mutant(
    "index-scores-first-page-table",
    "INDEX-SCORES-3",
    "A block of eight queries reads the pages of its first, though a sequence may end inside.",
)
class FirstPageTableIndexScores(CpuBackend):
    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        first = torch.arange(q.shape[0]) // 8 * 8
        shared = replace(context, sequence=context.sequence[first])
        return super().index_scores(q, w, keys, shared, scale)


@mutant(
    "index-scores-negative-zero",
    "INDEX-SCORES-4",
    "The sum begins with the first head's product, which is -0.0 under a negative weight.",
)
class NegativeZeroIndexScores(CpuBackend):
    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        out = torch.full((q.shape[0], context.max_length), -torch.inf)
        for token in range(q.shape[0]):
            parts = _products(q, keys, context, token).relu() * (w[token] * scale).unsqueeze(1)
            total = parts[0]
            for part in parts[1:]:
                total = total + part
            out[token, : total.shape[0]] = total
        return out
