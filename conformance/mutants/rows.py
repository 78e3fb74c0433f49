"""Faults of rms_norm, layer_norm, rope and swiglu."""

from dataclasses import replace

import torch
from torch import Tensor

from glm5_hal import Weight
from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.conformance.mutants.mutant import mutant


def _joined(x: Tensor, residual: Tensor | None) -> Tensor:
    return x if residual is None else x + residual


@mutant(
    "rms-norm-unrounded-sum",
    "RMS-NORM-1",
    "A fused kernel normalises the float32 sum that it still holds, not the bf16 one it stores.",
)
class UnroundedSumRmsNorm(CpuBackend):
    def rms_norm(
        self, x: Tensor, w: Weight, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        wide = x.float() if residual is None else x.float() + residual.float()
        y, _ = super().rms_norm(wide, w, eps)
        return y.to(x.dtype), _joined(x, residual)


@mutant(
    "rms-norm-early-rounding",
    "RMS-NORM-2",
    "The normalised row is cast to bf16 before it meets the weight, as in Llama's module.",
)
class EarlyRoundingRmsNorm(CpuBackend):
    def rms_norm(
        self, x: Tensor, w: Weight, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        h = _joined(x, residual)
        normed, _ = super().rms_norm(h, replace(w, data=torch.ones_like(w.tensor)), eps)
        return (normed.float() * w.tensor).to(x.dtype), h


@mutant(
    "rms-norm-eps-outside",
    "RMS-NORM-2",
    "Epsilon is added to the root instead of to the mean.",
)
class EpsOutsideRmsNorm(CpuBackend):
    def rms_norm(
        self, x: Tensor, w: Weight, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        h = _joined(x, residual)
        root = h.float().square().mean(-1, keepdim=True).sqrt()
        return (h.float() / (root + eps) * w.tensor).to(x.dtype), h


@mutant(
    "rms-norm-fixed-eps",
    "RMS-NORM-2",
    "Epsilon is a constant of the kernel, 1e-6, whatever the model says.",
)
class FixedEpsRmsNorm(CpuBackend):
    def rms_norm(
        self, x: Tensor, w: Weight, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return super().rms_norm(x, w, 1e-6, residual)


@mutant(
    "rms-norm-padded-width",
    "RMS-NORM-2",
    "A block as wide as the next power of two divides the sum of squares by its own width.",
)
class PaddedWidthRmsNorm(CpuBackend):
    def rms_norm(
        self, x: Tensor, w: Weight, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        h = _joined(x, residual)
        width = 1 << (h.shape[1] - 1).bit_length()
        mean = h.float().square().sum(-1, keepdim=True) / width
        return (h.float() * (mean + eps).rsqrt() * w.tensor).to(x.dtype), h


@mutant(
    "rms-norm-tile-statistic",
    "RMS-NORM-3",
    "A tile of 16 rows shares one statistic, because a reduction runs over one axis too many.",
)
class TileStatisticRmsNorm(CpuBackend):
    def rms_norm(
        self, x: Tensor, w: Weight, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        h = _joined(x, residual)
        out = torch.empty_like(h)
        for start in range(0, h.shape[0], 16):
            tile = h[start : start + 16].float()
            scale = (tile.square().mean() + eps).rsqrt()
            out[start : start + 16] = (tile * scale * w.tensor).to(x.dtype)
        return out, h


@mutant(
    "rms-norm-no-eps",
    "RMS-NORM-4",
    "Epsilon does not reach the kernel, and a row of zeros is divided by zero.",
)
class NoEpsRmsNorm(CpuBackend):
    def rms_norm(
        self, x: Tensor, w: Weight, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return super().rms_norm(x, w, 0.0, residual)


@mutant(
    "layer-norm-unbiased",
    "LAYER-NORM-1",
    "The variance is divided by D - 1, the default of a library's `var`.",
)
class UnbiasedLayerNorm(CpuBackend):
    def layer_norm(self, x: Tensor, w: Weight, b: Weight, eps: float) -> Tensor:
        wide = x.float()
        variance = wide.var(-1, keepdim=True)
        centred = wide - wide.mean(-1, keepdim=True)
        return (centred * (variance + eps).rsqrt() * w.tensor + b.tensor).to(x.dtype)


@mutant(
    "layer-norm-one-pass",
    "LAYER-NORM-1",
    "The variance is the mean of squares less the square of the mean, which cancels.",
)
class OnePassLayerNorm(CpuBackend):
    def layer_norm(self, x: Tensor, w: Weight, b: Weight, eps: float) -> Tensor:
        wide = x.float()
        mean = wide.mean(-1, keepdim=True)
        variance = (wide.square().mean(-1, keepdim=True) - mean.square()).clamp(min=0.0)
        return ((wide - mean) * (variance + eps).rsqrt() * w.tensor + b.tensor).to(x.dtype)


@mutant(
    "layer-norm-few-rows",
    "LAYER-NORM-2",
    "With few rows each is split over several blocks, whose sums are added in another order.",
)
class FewRowsLayerNorm(CpuBackend):
    def layer_norm(self, x: Tensor, w: Weight, b: Weight, eps: float) -> Tensor:
        wide = x.float()
        blocks = 4 if x.shape[0] < 8 else 1
        mean = _mean(wide, blocks)
        centred = wide - mean
        scale = (_mean(centred.square(), blocks) + eps).rsqrt()
        return (centred * scale * w.tensor + b.tensor).to(x.dtype)


def _mean(x: Tensor, blocks: int) -> Tensor:
    """Mean of each row, [T, 1], its sum taken in so many blocks."""
    total = x.new_zeros(x.shape[0], 1)
    for part in x.chunk(blocks, -1):
        total = total + part.sum(-1, keepdim=True)
    return total / x.shape[1]


@mutant(
    "layer-norm-no-eps",
    "LAYER-NORM-3",
    "Epsilon underflows in the type that the kernel holds it in, and a constant row gives NaN.",
)
class NoEpsLayerNorm(CpuBackend):
    def layer_norm(self, x: Tensor, w: Weight, b: Weight, eps: float) -> Tensor:
        return super().layer_norm(x, w, b, 0.0)


@mutant(
    "rope-layout-swapped",
    "ROPE-1",
    "Interleaved pairs are turned as half-split ones: the weights were not permuted to match.",
)
class LayoutSwappedRope(CpuBackend):
    def rope(self, x: Tensor, positions: Tensor, table: Weight, interleaved: bool) -> Tensor:
        return super().rope(x, positions, table, not interleaved)


@mutant(
    "rope-bf16-table",
    "ROPE-2",
    "The table of cosines and sines was cast to bf16 with the rest of the model.",
)
class NarrowTableRope(CpuBackend):
    def rope(self, x: Tensor, positions: Tensor, table: Weight, interleaved: bool) -> Tensor:
        narrow = replace(table, data=table.tensor.bfloat16().float())
        return super().rope(x, positions, narrow, interleaved)


@mutant(
    "rope-consecutive-positions",
    "ROPE-3",
    "Positions are counted up from the first token's, as if the batch were one sequence.",
)
class ConsecutivePositionsRope(CpuBackend):
    def rope(self, x: Tensor, positions: Tensor, table: Weight, interleaved: bool) -> Tensor:
        counted = torch.arange(positions.shape[0], dtype=torch.int32) + positions[:1]
        return super().rope(x, counted % table.shape[0], table, interleaved)


@mutant(
    "rope-off-by-one",
    "ROPE-4",
    "The position is the length after the token has been appended.",
)
class OffByOneRope(CpuBackend):
    def rope(self, x: Tensor, positions: Tensor, table: Weight, interleaved: bool) -> Tensor:
        return super().rope(x, (positions + 1) % table.shape[0], table, interleaved)


@mutant(
    "swiglu-halves-swapped",
    "SWIGLU-1",
    "The checkpoint's up and gate rows were joined in the other order.",
)
class HalvesSwappedSwiglu(CpuBackend):
    def swiglu(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return super().swiglu(torch.cat((up, gate), dim=-1))


@mutant(
    "swiglu-rounded-activation",
    "SWIGLU-1",
    "The activation is stored in bf16 before it meets the other half, as two calls would do.",
)
class RoundedActivationSwiglu(CpuBackend):
    def swiglu(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        activated = super().swiglu(torch.cat((gate, torch.ones_like(up)), dim=-1))
        return activated * up


@mutant(
    "swiglu-vector-tail",
    "SWIGLU-2",
    "Elements that do not fill a vector of 16 at the buffer's end use another exponential.",
)
class VectorTailSwiglu(CpuBackend):
    def swiglu(self, gate_up: Tensor) -> Tensor:
        out = super().swiglu(gate_up)
        gate, up = gate_up.float().chunk(2, dim=-1)
        tail = (gate * 0.5 * (1.0 + torch.tanh(gate * 0.5)) * up).to(out.dtype)
        whole = out.numel() // 16 * 16
        return torch.cat((out.flatten()[:whole], tail.flatten()[whole:])).reshape(out.shape)


@mutant(
    "swiglu-naive-exponential",
    "SWIGLU-3",
    "The sigmoid is exp(g) / (1 + exp(g)), which is Inf / Inf above 88.",
)
class NaiveExponentialSwiglu(CpuBackend):
    def swiglu(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.float().chunk(2, dim=-1)
        power = gate.exp()
        return (gate * (power / (1.0 + power)) * up).to(gate_up.dtype)
