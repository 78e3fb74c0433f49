"""Faults of latent_attention, mla and mla_expanded."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from glm5_hal import Cache, PagedContext, Weight, ops
from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.conformance.mutants.mutant import mutant


@dataclass(frozen=True)
class Question:
    """The arguments of latent_attention."""

    q_latent: Tensor
    q_rope: Tensor
    cache: Cache
    context: PagedContext
    scale: float
    indices: Tensor | None

    def tokens(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Query [H, W] and visible rows [S, W] of each token, float32."""
        query = torch.cat((self.q_latent, self.q_rope), dim=-1).float()
        for token in range(query.shape[0]):
            slots = self.context.slots(token, self.cache.page_size)
            if self.indices is not None:
                chosen = self.indices[token].long()
                count = int((chosen >= 0).long().cumprod(-1).sum())
                slots = slots[chosen[:count]]
            yield query[token], self.cache.tensor[slots].float()


class Attending(CpuBackend):
    """Latent attention whose question, or answer, a mutant changes."""

    def latent_attention(
        self,
        q_latent: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        return self._answer(Question(q_latent, q_rope, cache, context, scale, indices))

    def _answer(self, q: Question) -> Tensor:
        return super().latent_attention(
            q.q_latent, q.q_rope, q.cache, q.context, q.scale, q.indices
        )


@mutant(
    "attention-scale-of-the-row",
    "ATTENTION-1",
    "The kernel scales by the width of the cached row (576) instead of the head's own (256).",
)
class ScaleOfTheRowAttention(Attending):
    def _answer(self, q: Question) -> Tensor:
        return super()._answer(replace(q, scale=q.cache.width**-0.5))


@mutant(
    "attention-scale-low-bits",
    "ATTENTION-1",
    "Scale and log2(e) are multiplied in half precision: the product is 2^-10 too large.",
)
class ScaleLowBitsAttention(Attending):
    def _answer(self, q: Question) -> Tensor:
        return super()._answer(replace(q, scale=q.scale * (1 + 2.0**-10)))


@mutant(
    "attention-maximum-not-carried",
    "ATTENTION-1",
    "The running sums are not rescaled when a later tile raises the maximum.",
)
class MaximumNotCarriedAttention(Attending):
    def _answer(self, q: Question) -> Tensor:
        out = torch.empty_like(q.q_latent)
        for token, (query, rows) in enumerate(q.tokens()):
            scores = query @ rows.T * q.scale
            tiles = scores.split(32, dim=-1)
            weights = torch.cat([torch.exp(t - t.amax(-1, keepdim=True)) for t in tiles], dim=-1)
            weights = weights / weights.sum(-1, keepdim=True)
            out[token] = (weights @ rows[:, : out.shape[-1]]).to(out.dtype)
        return out


@mutant(
    "attention-page-to-its-end",
    "ATTENTION-2",
    "The last page is read to its end: rows that an earlier owner left behind.",
)
class PageToItsEndAttention(Attending):
    def _answer(self, q: Question) -> Tensor:
        size = q.cache.page_size
        whole = -(-q.context.lengths // size) * size
        return super()._answer(replace(q, context=replace(q.context, lengths=whole)))


@mutant(
    "attention-full-page-empty",
    "ATTENTION-2",
    "The last page holds `length % page_size` rows, which is none where the page is full.",
)
class FullPageEmptyAttention(Attending):
    def _answer(self, q: Question) -> Tensor:
        size = q.cache.page_size
        full = (q.context.lengths % size == 0) & (q.context.lengths > size)
        fewer = torch.where(full, q.context.lengths - size, q.context.lengths)
        return super()._answer(replace(q, context=replace(q.context, lengths=fewer)))


@mutant(
    "attention-first-page-table",
    "ATTENTION-2",
    "Every token uses the page table of the batch's first sequence.",
)
class FirstPageTableAttention(Attending):
    def _answer(self, q: Question) -> Tensor:
        first = torch.zeros_like(q.context.sequence)
        return super()._answer(replace(q, context=replace(q.context, sequence=first)))


@mutant(
    "attention-dense",
    "ATTENTION-3",
    "The indices are accepted and not looked at: dense attention, slower and nearly the same.",
)
class DenseAttention(Attending):
    def _answer(self, q: Question) -> Tensor:
        return super()._answer(replace(q, indices=None))


@mutant(
    "attention-padding-is-last-row",
    "ATTENTION-3",
    "An index of -1 addresses the last visible row, as it does in Python.",
)
class PaddingIsLastRowAttention(Attending):
    def _answer(self, q: Question) -> Tensor:
        if q.indices is None:
            return super()._answer(q)
        last = q.context.lengths.unsqueeze(1) - 1
        wrapped = torch.where(q.indices < 0, last, q.indices)
        return super()._answer(replace(q, indices=wrapped))


@mutant(
    "attention-sparse-backwards",
    "ATTENTION-4",
    "The sparse kernel walks its rows from the last to the first, the dense one forwards.",
)
class SparseBackwardsAttention(Attending):
    def _answer(self, q: Question) -> Tensor:
        if q.indices is None:
            return super()._answer(q)
        count = (q.indices >= 0).int().cumprod(-1).sum(-1, keepdim=True)
        place = count - 1 - torch.arange(q.indices.shape[1])
        back = torch.where(place >= 0, q.indices.gather(1, place.clamp(min=0)), -1)
        return super()._answer(replace(q, indices=back))


def _split(q: Question, parts: int) -> Tensor:
    """Attention whose weighted sums are taken over so many parts of the rows, then added."""
    out = torch.empty_like(q.q_latent)
    for token, (query, rows) in enumerate(q.tokens()):
        scores = query @ rows.T * q.scale
        weights = torch.exp(scores - scores.amax(-1, keepdim=True))
        size = math.ceil(rows.shape[0] / parts)
        pieces = [
            mine @ theirs[:, : out.shape[-1]]
            for mine, theirs in zip(weights.split(size, -1), rows.split(size), strict=True)
        ]
        total = weights.sum(-1, keepdim=True)
        out[token] = (torch.stack(pieces).sum(0) / total).to(out.dtype)
    return out


@mutant(
    "attention-splits-by-longest",
    "ATTENTION-5",
    "The keys are split in as many parts as the longest sequence of the batch asks for.",
)
class SplitsByLongestAttention(Attending):
    def _answer(self, q: Question) -> Tensor:
        return _split(q, 1 + q.context.max_length // 64)


@mutant(
    "attention-decode-kernel",
    "ATTENTION-5",
    "A single query would leave most cores idle, so that its keys are split over them.",
)
class DecodeKernelAttention(Attending):
    def _answer(self, q: Question) -> Tensor:
        return _split(q, 4) if q.q_rope.shape[0] == 1 else super()._answer(q)


@mutant(
    "attention-shared-maximum",
    "ATTENTION-5",
    "A block of 16 queries subtracts one maximum from all its scores.",
)
class SharedMaximumAttention(Attending):
    def _answer(self, q: Question) -> Tensor:
        out = torch.empty_like(q.q_latent)
        found = [(query @ rows.T * q.scale, rows) for query, rows in q.tokens()]
        for token, (scores, rows) in enumerate(found):
            block = found[token // 16 * 16 : token // 16 * 16 + 16]
            weights = torch.exp(scores - max(float(other.max()) for other, _ in block))
            weights = weights / weights.sum(-1, keepdim=True)
            out[token] = (weights @ rows[:, : out.shape[-1]]).to(out.dtype)
        return out


@mutant(
    "attention-masked-late",
    "ATTENTION-6",
    "A tile is multiplied with weights of zero where it is masked, and 0 * NaN is NaN.",
)
class MaskedLateAttention(Attending):
    def _answer(self, q: Question) -> Tensor:
        out = super()._answer(q)
        if q.indices is not None:
            return out
        for token in range(out.shape[0] - 1):
            neighbour = q.context.sequence[token] == q.context.sequence[token + 1]
            if neighbour and q.context.lengths[token] < q.context.lengths[token + 1]:
                row = q.cache.tensor[q.context.slots(token + 1, q.cache.page_size)[-1]]
                out[token] += row[: out.shape[-1]] * 0.0
        return out


@mutant(
    "mla-unscaled-position",
    "MLA-1",
    "The scale is folded into W_UK at load and so misses the rotated part of the score.",
)
class UnscaledPositionMla(CpuBackend):
    def mla(
        self,
        q_nope: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        w_uk: Weight,
        w_uv: Weight,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        return super().mla(q_nope, q_rope / scale, cache, context, w_uk, w_uv, scale, indices)


@mutant(
    "mla-form-by-tokens",
    "MLA-2",
    "Prefill uses the expanded form and decode the absorbed one.",
)
class FormByTokensMla(CpuBackend):
    def mla(
        self,
        q_nope: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        w_uk: Weight,
        w_uv: Weight,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        form = ops.mla.default if q_nope.shape[0] == 1 else self.mla_expanded
        return form(q_nope, q_rope, cache, context, w_uk, w_uv, scale, indices)


@mutant(
    "mla-expanded-next-head",
    "MLA-EXPANDED-1",
    "The values are expanded with the matrix of the head behind.",
)
class NextHeadMlaExpanded(CpuBackend):
    def mla_expanded(
        self,
        q_nope: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        w_uk: Weight,
        w_uv: Weight,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        moved = replace(w_uv, data=w_uv.tensor.roll(-1, 0))
        return super().mla_expanded(q_nope, q_rope, cache, context, w_uk, moved, scale, indices)


@mutant(
    "mla-expanded-dense",
    "MLA-EXPANDED-2",
    "The expanded kernel was written for dense prefill and does not know indices.",
)
class DenseMlaExpanded(CpuBackend):
    def mla_expanded(
        self,
        q_nope: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        w_uk: Weight,
        w_uv: Weight,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        return super().mla_expanded(q_nope, q_rope, cache, context, w_uk, w_uv, scale, None)
