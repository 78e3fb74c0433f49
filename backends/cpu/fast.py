"""The fast profile with compiled kernels: the CPU's own instructions, in one order of every sum."""

from collections.abc import Callable
from types import MappingProxyType

import torch
from torch import Tensor

from glm5_hal import Cache, Capabilities, Level, Numerics, PagedContext, Weight, WeightRole
from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.backends.cpu.host import DTYPES, PROFILES
from glm5_hal.backends.cpu.with_kernels import WithKernels
from glm5_hal.contract import FLOAT
from glm5_hal.kernels.cpu.fast import COMPILER, MODES, Fast, Packed
from glm5_hal.kernels.cpu.tape import recording

PACKED = (WeightRole.LINEAR, WeightRole.HEAD_LINEAR, WeightRole.EXPERTS)
"""Roles whose weights are kept in the layout of products alone."""


class CpuFast(WithKernels, CpuBackend):
    """Compiled kernels for what takes time; lookups and sampling are left to torch."""

    capabilities = Capabilities(
        dtypes=DTYPES,
        profiles=PROFILES,
        claims=MappingProxyType(
            {
                Numerics.FAST: frozenset(
                    {
                        Level.RUN_TO_RUN,
                        Level.THREAD_INVARIANT,
                        Level.BATCH_INVARIANT,
                        Level.SCHEDULE_INVARIANT,
                    }
                )
            }
        ),
    )

    _made_by = Fast
    _modes = MODES
    _compiler = COMPILER
    _kernels: Fast

    def prepare_weight(self, role: WeightRole, tensor: Tensor) -> Weight:
        if role not in PACKED or tensor.ndim not in (2, 3) or tensor.dtype not in FLOAT.allowed:
            # what no product takes stays as it is: the check of the call names it
            return super().prepare_weight(role, tensor)
        matrices = tensor.unsqueeze(0) if tensor.ndim == 2 else tensor
        return Weight(role, tuple(tensor.shape), tensor.dtype, self._kernels.pack(matrices))

    def record(self, step: Callable[[], None]) -> Callable[[], None] | None:
        if type(self) is not CpuFast:
            return None  # a class made of this one may compute what no tape sees
        with recording() as tape:
            step()
        return tape.play if tape.whole else None

    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        return self._kernels.linear(x, _packed(w), out_dtype or x.dtype)

    def head_linear(self, x: Tensor, w: Weight) -> Tensor:
        return self._kernels.head_linear(x, _packed(w))

    def grouped_linear(self, x: Tensor, w: Weight, offsets: Tensor) -> Tensor:
        return self._kernels.grouped_linear(x, _packed(w), offsets)

    def rope(self, x: Tensor, positions: Tensor, table: Weight, interleaved: bool) -> Tensor:
        return self._kernels.rope(x, positions, table.tensor, interleaved)

    def cache_write(self, cache: Cache, rows: Tensor, slots: Tensor) -> None:
        self._kernels.cache_write(cache.tensor, rows, slots)

    def latent_attention(
        self,
        q_latent: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        return self._kernels.attention(q_latent, q_rope, cache, context, scale, indices)

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
        q_latent = self._kernels.head_linear(q_nope, _packed(w_uk))
        content = self._kernels.attention(q_latent, q_rope, cache, context, scale, indices)
        return self._kernels.head_linear(content, _packed(w_uv))

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
        plain_uk, plain_uv = (
            Weight(w.role, w.shape, w.dtype, _packed(w).plain()) for w in (w_uk, w_uv)
        )
        return super().mla_expanded(
            q_nope, q_rope, cache, context, plain_uk, plain_uv, scale, indices
        )

    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        return self._kernels.index_scores(q, w, keys, context, scale)

    def dsa_select(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float, k: int
    ) -> Tensor:
        return self._kernels.dsa_select(q, w, keys, context, scale, k)

    def moe_experts(
        self,
        x: Tensor,
        ids: Tensor,
        weights: Tensor,
        w_gate_up: Weight,
        w_down: Weight,
        shared: Tensor | None = None,
    ) -> Tensor:
        return self._kernels.experts(x, ids, weights, _packed(w_gate_up), _packed(w_down), shared)


def _packed(w: Weight) -> Packed:
    if not isinstance(w.data, Packed):
        raise TypeError(f"this {w.role.value} weight was prepared by another backend")
    return w.data
