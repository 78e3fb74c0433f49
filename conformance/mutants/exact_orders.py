"""Faults of moe_combine and index_scores in the exact profile: sums in another order."""

import torch
from torch import Tensor

from glm5_hal import Cache, PagedContext
from glm5_hal.conformance.mutants.mutant import Portable, mutant
from glm5_hal.exact import ACTIVATION_DIGITS, fixed, power


@mutant(
    "combine-backwards",
    "COMBINE-EXACT-1",
    "Slots are added from the last to the first.",
)
class BackwardsCombine(Portable):
    def moe_combine(
        self, rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None = None
    ) -> Tensor:
        k = weights.shape[1]
        turned = slots // k * k + (k - 1 - slots % k)
        return super().moe_combine(rows, turned.int(), weights.flip(-1), shared)


@mutant(
    "heads-backwards",
    "INDEX-SCORES-EXACT-2",
    "Heads are added from the last to the first.",
)
class BackwardsIndexScores(Portable):
    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        return super().index_scores(q.flip(1), w.flip(1), keys, context, scale)


@mutant(
    "index-scores-one-exponent",
    "INDEX-SCORES-EXACT-1",
    "All heads of a query are fixed with the largest exponent among them.",
)
class OneExponentIndexScores(Portable):
    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        own = fixed(q, ACTIVATION_DIGITS)
        largest = own.exponent.amax(-1, keepdim=True).expand_as(own.exponent)
        shared = fixed(q, ACTIVATION_DIGITS, largest)
        kept = shared.integers * power(shared.exponent - shared.bits).unsqueeze(-1)
        kept = torch.where(shared.finite.unsqueeze(-1), kept, torch.nan)
        return super().index_scores(kept.to(q.dtype), w, keys, context, scale)
