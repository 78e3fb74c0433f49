"""Faults of bookkeeping: inputs changed, outputs unwritten or shared, another implementation."""

import torch
from torch import Tensor

from glm5_hal import Cache, PagedContext, Weight, ops
from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.conformance.mutants.mutant import mutant


@mutant(
    "residual-in-place",
    "GUARD-1",
    "The fused norm adds the residual into its input, which the caller still holds.",
)
class ResidualInPlace(CpuBackend):
    def rms_norm(
        self, x: Tensor, w: Weight, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return super().rms_norm(x if residual is None else x.add_(residual), w, eps)


@mutant(
    "stale-rows-cleared",
    "GUARD-1",
    "Attention clears what stands behind a length, so that NaN cannot leak; others own it.",
)
class StaleRowsCleared(CpuBackend):
    def latent_attention(
        self,
        q_latent: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        cache.tensor[cache.tensor.isnan().any(-1)] = 0.0
        return super().latent_attention(q_latent, q_rope, cache, context, scale, indices)


@mutant(
    "page-table-clamped",
    "GUARD-1",
    "Entries of -1 are clamped to page 0 in place before the table is used.",
)
class PageTableClamped(CpuBackend):
    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        context.page_table.clamp_(min=0)
        return super().index_scores(q, w, keys, context, scale)


@mutant(
    "static-output",
    "GUARD-2",
    "Results live in one buffer a shape, as in a captured graph; the next call overwrites them.",
)
class StaticOutput(CpuBackend):
    def __init__(self, index: int = 0) -> None:
        super().__init__(index)
        self._outputs: dict[tuple[object, ...], Tensor] = {}

    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        result = super().linear(x, w, out_dtype)
        key = (tuple(result.shape), result.dtype)
        return self._outputs.setdefault(key, torch.empty_like(result)).copy_(result)


@mutant(
    "tile-tail-unwritten",
    "GUARD-2",
    "The grid is rounded down: columns behind the last whole tile of 64 are not written.",
)
class TileTailUnwritten(CpuBackend):
    def swiglu(self, gate_up: Tensor) -> Tensor:
        result = super().swiglu(gate_up)
        out = torch.empty_like(result)
        whole = result.shape[1] // 64 * 64
        out[:, :whole] = result[:, :whole]
        return out


@mutant(
    "last-vector-stored-whole",
    "GUARD-2",
    "The last store is as wide as a vector register and goes beyond the end of the result.",
)
class LastVectorStoredWhole(CpuBackend):
    def swiglu(self, gate_up: Tensor) -> Tensor:
        out = torch.empty_like(super().swiglu(gate_up))
        room = out.untyped_storage().nbytes() // out.element_size() - out.storage_offset()
        # as far as memory goes that is torch's own: a mutant must not break the process
        whole = min(-(-out.numel() // 16) * 16, room)
        out.as_strided((whole,), (1,), out.storage_offset()).zero_()
        return out.copy_(super().swiglu(gate_up))


@mutant(
    "computed-on-the-host",
    "GUARD-3",
    "An op that the device lacks is computed on the host, and nothing says so.",
)
class ComputedOnTheHost(CpuBackend):
    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        on_host = super().topk(self.to_host(scores), self.to_host(lengths), k)
        return self.to_device(on_host)


@mutant(
    "reference-after-error",
    "GUARD-4",
    "A failing kernel is caught, and the reference answers in its place.",
)
class ReferenceAfterError(CpuBackend):
    def layer_norm(self, x: Tensor, w: Weight, b: Weight, eps: float) -> Tensor:
        try:
            return super().layer_norm(x, w, b, eps)
        except RuntimeError:
            return ops.layer_norm.reference(x, w, b, eps)


@mutant(
    "other-kernel-after-error",
    "GUARD-4",
    "After the first exception the kernel is marked as broken, and another serves from then on.",
)
class OtherKernelAfterError(CpuBackend):
    def __init__(self, index: int = 0) -> None:
        super().__init__(index)
        self._broken = False

    def rms_norm(
        self, x: Tensor, w: Weight, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if self._broken:
            return ops.rms_norm.reference(x, w, eps, residual)
        try:
            return super().rms_norm(x, w, eps, residual)
        except RuntimeError:
            self._broken = True
            raise
