"""The exact profile with compiled kernels: the bytes of the definitions, by int8 products."""

import math

import torch
from torch import Tensor

from glm5_hal import Cache, PagedContext, Weight, WeightRole
from glm5_hal.backends.cpu import moe
from glm5_hal.backends.cpu.portable import CpuPortable
from glm5_hal.backends.cpu.with_kernels import WithKernels
from glm5_hal.exact import ACTIVATION_DIGITS, READ, read
from glm5_hal.kernels.cpu import COMPILER, MODES, Digits, Exact, Paging, longest
from glm5_hal.ops.latent_attention import LOG2_E
from glm5_hal.ops.muon_orthogonalize import one_matrix
from glm5_hal.ops.sample import DRAW_BITS

CUT = (WeightRole.LINEAR, WeightRole.HEAD_LINEAR, WeightRole.EXPERTS)
"""Roles whose weights are kept as digits alone."""


class CpuCompiled(WithKernels, CpuPortable):  # type: ignore[misc, valid-type]
    """Compiled kernels for what takes time; indexing is left to torch."""

    _made_by = Exact
    _modes = MODES
    _compiler = COMPILER
    _kernels: Exact

    def prepare_weight(self, role: WeightRole, tensor: Tensor) -> Weight:
        if role not in CUT:
            return Weight(role, tuple(tensor.shape), tensor.dtype, tensor.contiguous())
        matrices = tensor.unsqueeze(0) if tensor.ndim == 2 else tensor
        return Weight(role, tuple(tensor.shape), tensor.dtype, self._kernels.pack(matrices))

    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        return self._kernels.linear(x, self._digits(w), out_dtype or x.dtype)

    def head_linear(self, x: Tensor, w: Weight) -> Tensor:
        return self._kernels.head_linear(x, self._digits(w))

    def grouped_linear(self, x: Tensor, w: Weight, offsets: Tensor) -> Tensor:
        return self._kernels.grouped_linear(x, self._digits(w), offsets)

    def rope(self, x: Tensor, positions: Tensor, table: Weight, interleaved: bool) -> Tensor:
        return self._kernels.rope(x, table.tensor[positions.long()], interleaved)

    def cache_write(self, cache: Cache, rows: Tensor, slots: Tensor) -> None:
        cache.tensor.index_copy_(0, slots.long(), rows)

    def moe_dispatch(self, x: Tensor, ids: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
        return moe.dispatch(x, ids, experts)

    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        weights = read(w) * torch.tensor(scale)
        paging = _paging(keys, context)
        return self._kernels.index_scores(q, read(weights), keys.tensor, paging, context.max_length)

    def dsa_select(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float, k: int
    ) -> Tensor:
        weights = read(w) * torch.tensor(scale)
        return self._kernels.dsa_select(q, read(weights), keys.tensor, _paging(keys, context), k)

    def latent_attention(
        self,
        q_latent: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        factor = float(torch.tensor(scale * LOG2_E))
        if not math.isfinite(factor):
            defined: Tensor = super().latent_attention(
                q_latent, q_rope, cache, context, scale, indices
            )
            return defined
        longest(context.max_length if indices is None else indices.shape[1])
        return self._kernels.attention(
            q_latent, q_rope, cache.tensor, _paging(cache, context), factor, indices
        )

    def muon_orthogonalize(self, g: Tensor, steps: int = 5) -> Tensor:
        made = [one_matrix(matrix, steps, self._times) for matrix in g]
        return torch.stack(made) if made else g.clone()

    def sample(self, logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> Tensor:
        drawn = (temperature >= READ) & (temperature < torch.inf) & (logits < torch.inf).all(-1)
        drawn &= (logits > -torch.inf).any(-1)
        usual = top_p.isfinite() & (draws >= 0) & (draws < 1 << DRAW_BITS)
        if not bool((usual | ~drawn).all()):
            defined: Tensor = super().sample(logits, temperature, top_p, draws)
            return defined
        parts = torch.round(top_p.nan_to_num().double() * 2.0**DRAW_BITS)
        limits = parts.clamp(0, 2.0**DRAW_BITS).long().masked_fill(~drawn, -1)
        return self._kernels.sample(logits, temperature, limits, draws)

    def _digits(self, w: Weight) -> Digits:
        if not isinstance(w.data, Digits):
            raise TypeError(f"this {w.role.value} weight was prepared by another backend")
        return w.data

    def _times(self, x: Tensor, y: Tensor) -> Tensor:
        """Rows of x with rows of y, by exact sums."""
        packed = self._kernels.pack(y.contiguous().unsqueeze(0), ACTIVATION_DIGITS)
        return self._kernels.linear(x, packed, torch.float32)


def _paging(cache: Cache, context: PagedContext) -> Paging:
    return Paging(cache.page_size, context.page_table, context.sequence, context.lengths)
