"""Faults of latent_attention in the exact profile."""

from dataclasses import replace

import torch
from torch import Tensor

from glm5_hal import Cache, PagedContext
from glm5_hal.conformance.mutants.mutant import Portable, mutant
from glm5_hal.exact import (
    ACTIVATION_DIGITS,
    Fixed,
    contract,
    digits_of,
    divide,
    exact_sums,
    exp2_fraction,
    fixed,
    power,
    write,
)
from glm5_hal.ops.latent_attention import CLAMP, LOG2_E


class Attending(Portable):
    """Attention by its definition; a mutant changes the scores' weights or their integers."""

    def latent_attention(
        self,
        q_latent: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        latent = q_latent.shape[-1]
        digits = digits_of(cache.dtype)
        out = super().latent_attention(q_latent, q_rope, cache, context, scale, indices)
        for token in range(q_latent.shape[0]):
            rows = cache.tensor[context.slots(token, cache.page_size, indices)]
            if rows.shape[0] and bool(rows.isfinite().all()):
                query = [fixed(q[token], ACTIVATION_DIGITS) for q in (q_latent, q_rope)]
                parts = [fixed(part, digits) for part in (rows[:, :latent], rows[:, latent:])]
                scores = contract(query[0], parts[0]) + contract(query[1], parts[1])
                scores = (scores * torch.tensor(scale * LOG2_E)).clamp(-CLAMP, CLAMP)
                value = self._weighted(scores, rows[:, :latent])
                out[token] = torch.where(out[token].isnan(), out[token], value.to(out.dtype))
        return out

    def _weighted(self, scores: Tensor, content: Tensor) -> Tensor:
        """Weighted rows [H, C] of scores [H, S] in powers of two."""
        rows = fixed(content, digits_of(content.dtype))
        whole = torch.round(scores)
        part = exp2_fraction(scores - whole).double()
        whole = whole.nan_to_num().long()
        lifted = whole + rows.exponent
        top, top_lifted = whole.amax(-1, keepdim=True), lifted.amax(-1, keepdim=True)
        mass = self._integers(part, whole, top, 23).sum(-1, keepdim=True).long()
        weights = self._integers(part, lifted, top_lifted, 21)
        finite = torch.ones(scores.shape[0], dtype=torch.bool)
        columns = Fixed(rows.integers.mT, rows.exponent, rows.finite, rows.digits)
        sums = exact_sums(Fixed(weights, top_lifted, finite, 3), columns).float()
        value = (sums * divide(torch.ones(()), mass.float())).double()
        return write(value * power(top_lifted - top + 2 - rows.bits), torch.float32)

    def _integers(self, part: Tensor, place: Tensor, top: Tensor, bits: int) -> Tensor:
        return torch.round(part * power((place - top + bits).clamp(min=-2)))


@mutant(
    "attention-scores-one-part",
    "ATTENTION-EXACT-1",
    "The query and the cached row are fixed as a whole, not in their two parts.",
)
class WholeRowAttention(Portable):
    def latent_attention(
        self,
        q_latent: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        query = torch.cat((q_latent, q_rope), dim=-1)
        whole = fixed(query, ACTIVATION_DIGITS)
        kept = whole.integers * power(whole.exponent - whole.bits).unsqueeze(-1)
        kept = torch.where(whole.finite.unsqueeze(-1), kept, torch.nan).to(query.dtype)
        latent = q_latent.shape[-1]
        q_latent, q_rope = kept[..., :latent].contiguous(), kept[..., latent:].contiguous()
        rows = fixed(cache.tensor, digits_of(cache.dtype))
        values = rows.integers * power(rows.exponent - rows.bits).unsqueeze(-1)
        values = torch.where(rows.finite.unsqueeze(-1), values, torch.nan).to(cache.dtype)
        other = replace(cache, data=values)
        return super().latent_attention(q_latent, q_rope, other, context, scale, indices)


@mutant(
    "attention-library-exp2",
    "EXACT-EXP2-1",
    "The weights are the library's powers of two.",
)
class LibraryExp2Attention(Attending):
    def _weighted(self, scores: Tensor, content: Tensor) -> Tensor:
        weights = torch.exp2(scores - scores.amax(-1, keepdim=True))
        total = weights.double().sum(-1, keepdim=True)
        return ((weights.double() @ content.double()) / total).float()


@mutant(
    "attention-maximum-per-split",
    "ATTENTION-EXACT-2",
    "Each split of 16 rows has integers of its own maximum, which are shifted when splits meet.",
)
class MaximumPerSplitAttention(Attending):
    def _integers(self, part: Tensor, place: Tensor, top: Tensor, bits: int) -> Tensor:
        made = []
        for mine, where in zip(part.split(16, -1), place.split(16, -1), strict=True):
            own = where.amax(-1, keepdim=True)
            integers = super()._integers(mine, where, own, bits)
            made.append(super()._integers(integers, own, top, 0))
        return torch.cat(made, dim=-1)


@mutant(
    "attention-running-maximum",
    "ATTENTION-EXACT-2",
    "A running maximum: what is summed so far is rescaled when a later tile raises it.",
)
class RunningMaximumAttention(Attending):
    def _weighted(self, scores: Tensor, content: Tensor) -> Tensor:
        top = torch.full((scores.shape[0], 1), -torch.inf)
        total = torch.zeros_like(top)
        sums = torch.zeros(scores.shape[0], content.shape[1])
        for tile, rows in zip(scores.split(16, -1), content.float().split(16), strict=True):
            higher = torch.maximum(top, tile.amax(-1, keepdim=True))
            weights = torch.exp2(tile - higher)
            sums = sums * torch.exp2(top - higher) + weights @ rows
            total = total * torch.exp2(top - higher) + weights.sum(-1, keepdim=True)
            top = higher
        return sums / total


@mutant(
    "attention-float-sums",
    "ATTENTION-EXACT-3",
    "The weights are right, and their products with the rows are added in float32.",
)
class FloatSumsAttention(Attending):
    def _weighted(self, scores: Tensor, content: Tensor) -> Tensor:
        weights = torch.exp2(scores.double() - scores.double().amax(-1, keepdim=True)).float()
        sums = torch.zeros(scores.shape[0], content.shape[1])
        for row in range(content.shape[0]):
            sums = sums + weights[:, row : row + 1] * content[row].float()
        return sums / weights.sum(-1, keepdim=True)
