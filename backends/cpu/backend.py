"""The CPU backend in plain torch, arranged so that no bit depends on the schedule."""

from types import MappingProxyType

import torch
from torch import Tensor

from glm5_hal import Backend, Cache, Capabilities, Level, Numerics, PagedContext, Weight
from glm5_hal.backends.cpu import attention, elementwise, moe, muon, sampling, select, tiles
from glm5_hal.backends.cpu.host import DTYPES, PROFILES, Host
from glm5_hal.backends.cpu.portable import without_kernels
from glm5_hal.backends.cpu.profiles import exact_backend, fast_backend


class CpuBackend(Host):
    """Works everywhere; the backend that others are compared with."""

    capabilities = Capabilities(
        dtypes=DTYPES,
        profiles=PROFILES,
        claims=MappingProxyType(
            {
                Numerics.FAST: frozenset(
                    {Level.RUN_TO_RUN, Level.BATCH_INVARIANT, Level.SCHEDULE_INVARIANT}
                )
            }
        ),
    )

    @classmethod
    def in_profile(cls, numerics: Numerics) -> type[Backend]:
        if numerics is Numerics.EXACT:
            return exact_backend()
        # a class made of this one is meant as it stands
        return fast_backend(cls) if cls is CpuBackend else cls

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        capability = torch.backends.cpu.get_cpu_capability()
        return True, f"threads: {torch.get_num_threads()}, torch with {capability}"

    @classmethod
    def advice(cls) -> tuple[str, ...]:
        return without_kernels(Numerics.FAST)

    @classmethod
    def versions(cls) -> dict[str, str]:
        return {
            "torch": torch.__version__,
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "threads": str(torch.get_num_threads()),
        }

    def embedding(self, ids: Tensor, table: Weight) -> Tensor:
        return table.tensor.index_select(0, ids)

    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        return tiles.matmul(x, w.tensor, out_dtype or x.dtype)

    def head_linear(self, x: Tensor, w: Weight) -> Tensor:
        return tiles.head_matmul(x, w.tensor)

    def rms_norm(
        self, x: Tensor, w: Weight, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        h = x if residual is None else x + residual
        return elementwise.rms_norm(h, w.tensor, eps), h

    def layer_norm(self, x: Tensor, w: Weight, b: Weight, eps: float) -> Tensor:
        return elementwise.layer_norm(x, w.tensor, b.tensor, eps)

    def rope(self, x: Tensor, positions: Tensor, table: Weight, interleaved: bool) -> Tensor:
        return elementwise.rope(x, table.tensor[positions.long()], interleaved)

    def swiglu(self, gate_up: Tensor) -> Tensor:
        return elementwise.swiglu(gate_up)

    def cache_write(self, cache: Cache, rows: Tensor, slots: Tensor) -> None:
        cache.tensor.index_copy_(0, slots.long(), rows)

    def cache_read(self, cache: Cache, slots: Tensor) -> Tensor:
        return cache.tensor.index_select(0, slots)

    def latent_attention(
        self,
        q_latent: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        return attention.latent_attention(q_latent, q_rope, cache, context, scale, indices)

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
        return attention.expanded_attention(
            q_nope, q_rope, cache, context, w_uk.tensor, w_uv.tensor, scale, indices
        )

    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        return select.index_scores(q, w, keys, context, scale)

    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        return select.topk(scores, lengths, k)

    def dsa_select(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float, k: int
    ) -> Tensor:
        return select.select(q, w, keys, context, scale, k)

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
        return moe.route(logits, bias.tensor, k, n_group, topk_group, normalize, scale)

    def moe_dispatch(self, x: Tensor, ids: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
        return moe.dispatch(x, ids, experts)

    def moe_combine(
        self, rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None = None
    ) -> Tensor:
        return moe.combine(rows, slots, weights, shared)

    def grouped_linear(self, x: Tensor, w: Weight, offsets: Tensor) -> Tensor:
        return moe.grouped_linear(x, w.tensor, offsets)

    def muon_orthogonalize(self, g: Tensor, steps: int = 5) -> Tensor:
        return muon.orthogonalize(g, steps)

    def sample(self, logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> Tensor:
        return sampling.sample(logits, temperature, top_p, draws)
