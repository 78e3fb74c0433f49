"""Faults of linear, head_linear and grouped_linear."""

import itertools
from dataclasses import replace

import torch
from torch import Tensor

from glm5_hal import Weight, WeightRole
from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.conformance.mutants.mutant import mutant


def split_matmul(x: Tensor, w: Tensor, parts: int) -> Tensor:
    """``x @ w.T`` in float32, the terms summed in `parts` pieces that are added in order."""
    pieces = zip(x.float().chunk(parts, -1), w.float().chunk(parts, -1), strict=True)
    total = x.new_zeros(x.shape[0], w.shape[0], dtype=torch.float32)
    for mine, theirs in pieces:
        total = total + mine @ theirs.T
    return total


@mutant(
    "linear-zeros",
    "LINEAR-1",
    "A kernel does not launch, its status is not looked at, and the zeroed output is returned.",
)
class ZerosLinear(CpuBackend):
    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        return torch.zeros_like(super().linear(x, w, out_dtype))


@mutant(
    "linear-bf16-accumulator",
    "LINEAR-1",
    "A bf16 product keeps its running sum in bf16 between tiles of 64 terms.",
)
class NarrowAccumulatorLinear(CpuBackend):
    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        if x.dtype != torch.bfloat16:
            return super().linear(x, w, out_dtype)
        total = x.new_zeros(x.shape[0], w.shape[0])
        for start in range(0, x.shape[1], 64):
            part = slice(start, start + 64)
            total = total + super().linear(x[:, part], replace(w, data=w.tensor[:, part]))
        return total.to(out_dtype or x.dtype)


@mutant(
    "linear-weight-kept-narrow",
    "LINEAR-1",
    "Weights are prepacked in bf16 at load, whatever they came in.",
)
class WeightKeptNarrow(CpuBackend):
    def prepare_weight(self, role: WeightRole, tensor: Tensor) -> Weight:
        if role is not WeightRole.LINEAR:
            return super().prepare_weight(role, tensor)
        return super().prepare_weight(role, tensor.bfloat16().to(tensor.dtype))


@mutant(
    "linear-split-by-batch",
    "LINEAR-2",
    "A library splits the sum over K in four where fewer than eight rows leave cores idle.",
)
class SplitByBatchLinear(CpuBackend):
    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        if x.shape[0] >= 8 or x.shape[1] < 4:
            return super().linear(x, w, out_dtype)
        return split_matmul(x, w.tensor, 4).to(out_dtype or x.dtype)


@mutant(
    "linear-tf32",
    "LINEAR-3",
    "Matrix units take float32 operands with ten bits of mantissa, which a default allows.",
)
class TruncatedOperandsLinear(CpuBackend):
    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        kept = replace(w, data=_ten_bits(w.tensor))
        return super().linear(_ten_bits(x), kept, out_dtype)


def _ten_bits(x: Tensor) -> Tensor:
    if x.dtype != torch.float32:
        return x
    return (x.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


@mutant(
    "linear-next-row-times-zero",
    "LINEAR-4",
    "K is rounded up to a block by reading on into the next row, against weights of zero.",
)
class NextRowLinear(CpuBackend):
    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        following = torch.cat((x[1:, :16], x.new_zeros(1, min(16, x.shape[1]))))[: x.shape[0]]
        leak = (following * 0.0).sum(-1, keepdim=True)
        out = super().linear(x, w, out_dtype)
        return out + leak.to(out.dtype)


@mutant(
    "linear-nan-removed",
    "LINEAR-4",
    "A compiler's fast-math, or a clamp against overflow, turns NaN and Inf into numbers.",
)
class NanRemovedLinear(CpuBackend):
    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        return super().linear(x.nan_to_num(), w, out_dtype)


@mutant(
    "linear-float-through-bf16",
    "LINEAR-5",
    "Float logits are made by a bf16 product and a cast.",
)
class FloatThroughBf16Linear(CpuBackend):
    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        if out_dtype != torch.float32:
            return super().linear(x, w, out_dtype)
        return super().linear(x, w, torch.bfloat16).float()


@mutant(
    "linear-weight-narrowed",
    "LINEAR-5",
    "The router's float32 weight is cast to the dtype of the rows that it meets.",
)
class WeightNarrowedLinear(CpuBackend):
    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        narrow = w.tensor.to(x.dtype)
        return super().linear(x, replace(w, data=narrow, dtype=narrow.dtype), out_dtype)


@mutant(
    "head-linear-truncated-store",
    "HEAD-LINEAR-1",
    "A bf16 result is stored as the upper half of the float32 word: cut, not rounded.",
)
class TruncatedStoreHeadLinear(CpuBackend):
    def head_linear(self, x: Tensor, w: Weight) -> Tensor:
        if x.dtype != torch.bfloat16:
            return super().head_linear(x, w)
        wide = super().head_linear(x.float(), w)
        return (wide.view(torch.int32) & ~0xFFFF).view(torch.float32).bfloat16()


@mutant(
    "head-linear-tail-block",
    "HEAD-LINEAR-2",
    "Tokens go four at a time; the last, incomplete block is summed by another loop.",
)
class TailBlockHeadLinear(CpuBackend):
    def head_linear(self, x: Tensor, w: Weight) -> Tensor:
        whole = x.shape[0] // 4 * 4
        tail = super().head_linear(
            x[whole:].flip(-1).contiguous(), replace(w, data=w.tensor.flip(-1).contiguous())
        )
        return torch.cat((super().head_linear(x[:whole], w), tail))


@mutant(
    "head-linear-shared-heads",
    "HEAD-LINEAR-3",
    "The kernel was written for grouped queries: two heads share a matrix.",
)
class SharedHeadsHeadLinear(CpuBackend):
    def head_linear(self, x: Tensor, w: Weight) -> Tensor:
        shared = torch.arange(w.shape[0]) // 2 * 2
        return super().head_linear(x, replace(w, data=w.tensor[shared]))


@mutant(
    "grouped-linear-last-stage",
    "GROUPED-LINEAR-1",
    "A software-pipelined loop over K leaves before it has added the tile it loaded last.",
)
class LastStageGroupedLinear(CpuBackend):
    def grouped_linear(self, x: Tensor, w: Weight, offsets: Tensor) -> Tensor:
        done = max(0, -(-x.shape[1] // 32) - 1) * 32
        part = replace(w, data=w.tensor[..., :done])
        return super().grouped_linear(x[:, :done], part, offsets)


@mutant(
    "grouped-linear-few-rows",
    "GROUPED-LINEAR-2",
    "An expert with fewer than four rows goes through a matrix-vector kernel with other sums.",
)
class FewRowsGroupedLinear(CpuBackend):
    def grouped_linear(self, x: Tensor, w: Weight, offsets: Tensor) -> Tensor:
        out = super().grouped_linear(x, w, offsets)
        for expert, (start, stop) in enumerate(itertools.pairwise(offsets.tolist())):
            if 0 < stop - start < 4:
                out[start:stop] = split_matmul(x[start:stop], w.tensor[expert], 4).to(out.dtype)
        return out


@mutant(
    "grouped-linear-empty-experts",
    "GROUPED-LINEAR-3",
    "The kernel counts groups of rows, so that an expert without rows shifts all behind it.",
)
class EmptyExpertsGroupedLinear(CpuBackend):
    def grouped_linear(self, x: Tensor, w: Weight, offsets: Tensor) -> Tensor:
        bounds = sorted(set(offsets.tolist()))
        last = [bounds[-1]] * (offsets.shape[0] - len(bounds))
        return super().grouped_linear(x, w, torch.tensor([*bounds, *last], dtype=torch.int32))
