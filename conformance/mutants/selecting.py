"""Faults of topk and dsa_select."""

import torch
from torch import Tensor

from glm5_hal import Cache, PagedContext
from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.conformance.mutants.mutant import mutant
from glm5_hal.ops.topk import order_key


def _ranked(keys: Tensor, lengths: Tensor, k: int, *, highest: bool = False) -> Tensor:
    """The k largest keys of each row, ascending, ties to the lowest (or highest) index."""
    out = torch.full((keys.shape[0], k), -1, dtype=torch.int32)
    for row, length in enumerate(lengths.tolist()):
        mine = keys[row, :length].flip(0) if highest else keys[row, :length]
        best = torch.sort(mine, descending=True, stable=True).indices[:k]
        best = length - 1 - best if highest else best
        out[row, : best.numel()] = best.sort().values.int()
    return out


@mutant(
    "topk-highest-index",
    "TOPK-1",
    "Among equal scores the later one replaces the earlier: `>=` where `>` belongs.",
)
class HighestIndexTopk(CpuBackend):
    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        return _ranked(order_key(scores), lengths, k, highest=True)


@mutant(
    "topk-library-order",
    "TOPK-1",
    "The library's top-k is taken, which promises nothing about ties.",
)
class LibraryOrderTopk(CpuBackend):
    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        out = torch.full((scores.shape[0], k), -1, dtype=torch.int32)
        for row, length in enumerate(lengths.tolist()):
            best = torch.topk(scores[row, :length] + 0.0, min(k, length)).indices
            out[row, : best.numel()] = best.sort().values.int()
        return out


@mutant(
    "topk-bf16-scores",
    "TOPK-1",
    "A radix select looks at the upper 16 bits of a score and takes what comes first.",
)
class NarrowScoresTopk(CpuBackend):
    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        return super().topk(scores.bfloat16().float(), lengths, k)


@mutant(
    "topk-one-in-a-hundred",
    "TOPK-1",
    "An approximate select misses one index in a hundred, which a test of overlap lets through.",
)
class OneInAHundredTopk(CpuBackend):
    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        out = super().topk(scores, lengths, k)
        for row, length in enumerate(lengths.tolist()):
            if length < 100 or length <= k:
                continue
            left = sorted(set(range(length)) - set(out[row].tolist()))
            out[row, k // 2] = left[len(left) // 2]
            out[row] = out[row].sort().values
        return out


@mutant(
    "topk-score-order",
    "TOPK-2",
    "The right set is returned in order of score, so that attention sums in that order.",
)
class ScoreOrderTopk(CpuBackend):
    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        out = super().topk(scores, lengths, k)
        chosen = order_key(scores).gather(1, out.long().clamp(min=0))
        chosen = torch.where(out >= 0, chosen.long(), torch.iinfo(torch.int64).min)
        return out.gather(1, torch.sort(chosen, descending=True, stable=True).indices)


@mutant(
    "topk-padding-is-length",
    "TOPK-3",
    "A short row is padded with its length, one past its last column.",
)
class PaddingIsLengthTopk(CpuBackend):
    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        out = super().topk(scores, lengths, k)
        return torch.where(out < 0, lengths.unsqueeze(1), out)


@mutant(
    "topk-row-of-k",
    "TOPK-3",
    "Rows shorter than k are copied, longer ones selected; a row of just k loses its last.",
)
class RowOfKTopk(CpuBackend):
    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        out = super().topk(scores, lengths, k)
        out[lengths == k, -1] = -1
        return out


@mutant(
    "topk-nan-lowest",
    "TOPK-4",
    "Every comparison with NaN is false, so that NaN is never chosen.",
)
class NanLowestTopk(CpuBackend):
    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        return super().topk(torch.where(scores.isnan(), -torch.inf, scores), lengths, k)


@mutant(
    "topk-signed-zeros",
    "TOPK-4",
    "A radix select orders the bits of the scores, in which -0.0 is less than +0.0.",
)
class SignedZerosTopk(CpuBackend):
    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        bits = scores.contiguous().view(torch.int32)
        keys = torch.where(scores == 0, bits ^ ((bits >> 31) & 0x7FFFFFFF), order_key(scores))
        return _ranked(keys, lengths, k)


@mutant(
    "topk-nan-by-bits",
    "TOPK-4",
    "NaN goes through the same integer keys as numbers, so that its sign and payload count.",
)
class NanByBitsTopk(CpuBackend):
    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        bits = (scores + 0.0).view(torch.int32)
        keys = torch.where(scores.isnan(), bits & 0x7FFFFFFF, order_key(scores))
        return _ranked(keys, lengths, k)


@mutant(
    "topk-whole-row",
    "TOPK-5",
    "The row is read to its end, trusting that -Inf stands behind the length.",
)
class WholeRowTopk(CpuBackend):
    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        return super().topk(scores, torch.full_like(lengths, scores.shape[1]), k)


@mutant(
    "topk-long-rows",
    "TOPK-5",
    "Rows of more than 1024 columns take another algorithm, with another order of ties.",
)
class LongRowsTopk(CpuBackend):
    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        return _ranked(order_key(scores), lengths, k, highest=scores.shape[1] > 1024)


@mutant(
    "topk-row-before",
    "TOPK-5",
    "Rows are staged in one buffer: behind a short row stands what the row before left.",
)
class RowBeforeTopk(CpuBackend):
    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        if not scores.shape[0]:
            return super().topk(scores, lengths, k)
        before = torch.cat((scores[:1], scores[:-1]))
        longer = torch.maximum(lengths, torch.cat((lengths[:1], lengths[:-1])))
        own = torch.arange(scores.shape[1]) < lengths.unsqueeze(1)
        return super().topk(torch.where(own, scores, before), longer, k)


@mutant(
    "dsa-select-other-ties",
    "DSA-SELECT-1",
    "The fused kernel breaks ties by the highest index, the top-k beside it by the lowest.",
)
class OtherTiesDsaSelect(CpuBackend):
    def dsa_select(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float, k: int
    ) -> Tensor:
        scores = self.index_scores(q, w, keys, context, scale)
        return _ranked(order_key(scores), context.lengths, k, highest=True)


@mutant(
    "dsa-select-bf16-scores",
    "DSA-SELECT-1",
    "The fused kernel keeps its scores in bf16 to halve what it writes.",
)
class NarrowScoresDsaSelect(CpuBackend):
    def dsa_select(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float, k: int
    ) -> Tensor:
        scores = self.index_scores(q, w, keys, context, scale)
        return self.topk(scores.bfloat16().float(), context.lengths, k)


@mutant(
    "dsa-select-one-choice-a-block",
    "DSA-SELECT-2",
    "A block of queries shares the choice of its last token, as far as each can see.",
)
class OneChoiceDsaSelect(CpuBackend):
    def dsa_select(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float, k: int
    ) -> Tensor:
        out = super().dsa_select(q, w, keys, context, scale, k)
        for token in reversed(range(q.shape[0] - 1)):
            same = context.sequence[token] == context.sequence[token + 1]
            if same and token % 8 != 7:
                out[token] = out[token + 1]
        return torch.where(out < context.lengths.unsqueeze(1), out, -1)
