"""The exact profile's ops."""

from typing import ClassVar

import torch
from torch import Tensor

from glm5_hal import Cache, Numerics, PagedContext, Weight, WeightRole
from glm5_hal.backends.torch_triton.moving import MovingOps
from glm5_hal.exact import check_length
from glm5_hal.kernels.triton import (
    dsa_select,
    grouped_linear,
    head_linear,
    index_scores,
    latent_attention,
    layer_norm,
    linear,
    linear_from_limbs,
    linear_limbs,
    moe_combine,
    moe_route,
    muon_orthogonalize,
    rms_norm,
    rope,
    row_exponents,
    swiglu,
)
from glm5_hal.kernels.triton.fixing import Digits, cut, exponents_of

_CUT = (WeightRole.LINEAR, WeightRole.HEAD_LINEAR, WeightRole.EXPERTS)


def _digits(w: Weight) -> Digits:
    """The digits of a weight that was cut at load."""
    assert isinstance(w.data, Digits)
    return w.data


class ExactOps(MovingOps):
    """Weights of products are kept as digits, cut once at load."""

    _numerics: ClassVar[Numerics] = Numerics.EXACT

    def prepare_weight(self, role: WeightRole, tensor: Tensor) -> Weight:
        kept = super().prepare_weight(role, tensor)
        if role not in _CUT:
            return kept
        rows = cut(kept.tensor.flatten(0, -2), self._target)
        return Weight(role, kept.shape, kept.dtype, rows)

    def prepare_shard(self, tensor: Tensor, start: int, stop: int) -> Weight:
        check_length(tensor.shape[1])
        whole = self.to_device(tensor)
        exponents = exponents_of(whole, self._target)
        columns = cut(whole[:, start:stop].contiguous(), self._target, exponents=exponents)
        return Weight(WeightRole.SHARD, (tensor.shape[0], stop - start), tensor.dtype, columns)

    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        return linear.exact(x, _digits(w), out_dtype or x.dtype, self._target)

    def head_linear(self, x: Tensor, w: Weight) -> Tensor:
        return head_linear.exact(x, _digits(w), self._target)

    def grouped_linear(self, x: Tensor, w: Weight, offsets: Tensor) -> Tensor:
        return grouped_linear.exact(x, _digits(w), offsets, self._target)

    def row_exponents(self, x: Tensor) -> Tensor:
        return row_exponents.exact(x, self._target)

    def linear_limbs(self, x: Tensor, w: Weight, exponents: Tensor) -> Tensor:
        return linear_limbs.exact(x, _digits(w), exponents, self._target)

    def linear_from_limbs(
        self, limbs: Tensor, exponents: Tensor, w: Weight, out_dtype: torch.dtype
    ) -> Tensor:
        return linear_from_limbs.exact(limbs, exponents, _digits(w), out_dtype, self._target)

    def rms_norm(
        self, x: Tensor, w: Weight, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return rms_norm.exact(x, w.tensor, eps, residual, self._target)

    def layer_norm(self, x: Tensor, w: Weight, b: Weight, eps: float) -> Tensor:
        return layer_norm.exact(x, w.tensor, b.tensor, eps, self._target)

    def rope(self, x: Tensor, positions: Tensor, table: Weight, interleaved: bool) -> Tensor:
        return rope.exact(x, positions, table.tensor, interleaved, self._target)

    def swiglu(self, gate_up: Tensor) -> Tensor:
        return swiglu.exact(gate_up, self._target)

    def latent_attention(
        self,
        q_latent: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        return latent_attention.exact(
            q_latent, q_rope, cache.tensor, cache.page_size, context, scale, indices, self._target
        )

    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        return index_scores.exact(q, w, keys.tensor, keys.page_size, context, scale, self._target)

    def dsa_select(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float, k: int
    ) -> Tensor:
        return dsa_select.exact(q, w, keys.tensor, keys.page_size, context, scale, k, self._target)

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
        return moe_route.exact(
            logits, bias.tensor, k, n_group, topk_group, normalize, scale, self._target
        )

    def moe_combine(
        self, rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None = None
    ) -> Tensor:
        return moe_combine.exact(rows, slots, weights, shared, self._target)

    def muon_orthogonalize(self, g: Tensor, steps: int = 5) -> Tensor:
        return muon_orthogonalize.exact(g, steps, self._target)
