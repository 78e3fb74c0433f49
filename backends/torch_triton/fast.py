"""The fast profile's ops: bfloat16 or float32 operands, float32 sums in one order."""

import torch
from torch import Tensor

from glm5_hal import Cache, PagedContext, Weight
from glm5_hal.backends.torch_triton.moving import MovingOps
from glm5_hal.kernels.triton import (
    dsa_select,
    grouped_linear,
    head_linear,
    index_scores,
    latent_attention,
    layer_norm,
    linear,
    moe_combine,
    moe_route,
    muon_orthogonalize,
    rms_norm,
    rope,
    swiglu,
)


class FastOps(MovingOps):
    """Weights are kept as they are; a row's bits depend on that row alone."""

    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        return linear.fast(x, w.tensor, out_dtype or x.dtype, self._target)

    def head_linear(self, x: Tensor, w: Weight) -> Tensor:
        return head_linear.fast(x, w.tensor, self._target)

    def grouped_linear(self, x: Tensor, w: Weight, offsets: Tensor) -> Tensor:
        return grouped_linear.fast(x, w.tensor, offsets, self._target)

    def rms_norm(
        self, x: Tensor, w: Weight, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return rms_norm.fast(x, w.tensor, eps, residual, self._target)

    def layer_norm(self, x: Tensor, w: Weight, b: Weight, eps: float) -> Tensor:
        return layer_norm.fast(x, w.tensor, b.tensor, eps, self._target)

    def rope(self, x: Tensor, positions: Tensor, table: Weight, interleaved: bool) -> Tensor:
        return rope.fast(x, positions, table.tensor, interleaved, self._target)

    def swiglu(self, gate_up: Tensor) -> Tensor:
        return swiglu.fast(gate_up, self._target)

    def latent_attention(
        self,
        q_latent: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        return latent_attention.fast(
            q_latent, q_rope, cache.tensor, cache.page_size, context, scale, indices, self._target
        )

    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        return index_scores.fast(q, w, keys.tensor, keys.page_size, context, scale, self._target)

    def dsa_select(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float, k: int
    ) -> Tensor:
        return dsa_select.fast(q, w, keys.tensor, keys.page_size, context, scale, k, self._target)

    def moe_route(
        self,
        logits: Tensor,
        bias: Weight,
        k: int,
        n_group: int,
        topk_group: int,
        normalize: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        return moe_route.fast(
            logits, bias.tensor, k, n_group, topk_group, normalize, scale, self._target
        )

    def moe_combine(
        self, rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None = None
    ) -> Tensor:
        return moe_combine.fast(rows, slots, weights, shared, self._target)

    def muon_orthogonalize(self, g: Tensor, steps: int = 5) -> Tensor:
        return muon_orthogonalize.fast(g, steps, self._target)
