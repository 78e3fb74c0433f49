"""The backend: every op by way of int8 digits, int32 and float32."""

from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from glm5_hal import Backend, Cache, Capabilities, Level, Numerics, PagedContext, Weight, WeightRole
from glm5_hal.backends.cpu_limbs import attention, elementwise, linear, moe, muon, sampling, select
from glm5_hal.backends.cpu_limbs.arrays import quiet

_CUT = (WeightRole.LINEAR, WeightRole.HEAD_LINEAR, WeightRole.EXPERTS)


class CpuLimbsBackend(Backend):
    """What the exact profile asks of a chip, and no more: slow, and written to be compared with."""

    name = "cpu-limbs"
    capabilities = Capabilities(
        dtypes=frozenset({torch.float32, torch.bfloat16}),
        profiles=frozenset({Numerics.EXACT}),
        claims=MappingProxyType(
            {
                Numerics.EXACT: frozenset(
                    {
                        Level.RUN_TO_RUN,
                        Level.THREAD_INVARIANT,
                        Level.BATCH_INVARIANT,
                        Level.SCHEDULE_INVARIANT,
                        Level.RANK_INVARIANT,
                        Level.CROSS_BACKEND,
                    }
                )
            }
        ),
        unsupported=MappingProxyType(
            {"mla_expanded": "the exact profile is defined on the absorbed form"}
        ),
    )

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        return True, f"numpy {np.__version__}"

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @classmethod
    def versions(cls) -> dict[str, str]:
        return {"torch": torch.__version__, "numpy": np.__version__}

    def prepare_weight(self, role: WeightRole, tensor: Tensor) -> Weight:
        kept = linear.prepared(tensor) if role in _CUT else tensor.contiguous()
        return Weight(role, tuple(tensor.shape), tensor.dtype, kept)

    def prepare_shard(self, tensor: Tensor, start: int, stop: int) -> Weight:
        columns = linear.prepared_columns(tensor, start, stop)
        shape = (tensor.shape[0], stop - start)
        return Weight(WeightRole.SHARD, shape, tensor.dtype, columns)

    def embedding(self, ids: Tensor, table: Weight) -> Tensor:
        return table.tensor[ids.long()]

    @quiet
    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        return linear.linear(x, linear.fixed_weight(w), out_dtype or x.dtype)

    def row_exponents(self, x: Tensor) -> Tensor:
        return linear.row_exponents(x)

    def linear_limbs(self, x: Tensor, w: Weight, exponents: Tensor) -> Tensor:
        return linear.linear_limbs(x, linear.fixed_weight(w), exponents)

    def linear_from_limbs(
        self, limbs: Tensor, exponents: Tensor, w: Weight, out_dtype: torch.dtype
    ) -> Tensor:
        return linear.linear_from_limbs(limbs, exponents, linear.fixed_weight(w), out_dtype)

    @quiet
    def head_linear(self, x: Tensor, w: Weight) -> Tensor:
        return linear.head_linear(x, linear.fixed_weight(w))

    @quiet
    def rms_norm(
        self, x: Tensor, w: Weight, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return elementwise.rms_norm(x, w, eps, residual)

    @quiet
    def layer_norm(self, x: Tensor, w: Weight, b: Weight, eps: float) -> Tensor:
        return elementwise.layer_norm(x, w, b, eps)

    @quiet
    def rope(self, x: Tensor, positions: Tensor, table: Weight, interleaved: bool) -> Tensor:
        return elementwise.rope(x, table.tensor[positions.long()], interleaved)

    @quiet
    def swiglu(self, gate_up: Tensor) -> Tensor:
        return elementwise.swiglu(gate_up)

    def cache_write(self, cache: Cache, rows: Tensor, slots: Tensor) -> None:
        cache.tensor[slots.long()] = rows

    def cache_read(self, cache: Cache, slots: Tensor) -> Tensor:
        return cache.tensor[slots.long()]

    @quiet
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

    @quiet
    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        return select.index_scores(q, w, keys, context, scale)

    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        return select.topk(scores, lengths, k)

    @quiet
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
        return moe.route(logits, bias, k, (n_group, topk_group), normalize, scale)

    def moe_dispatch(self, x: Tensor, ids: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
        return moe.dispatch(x, ids, experts)

    @quiet
    def moe_combine(
        self, rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None = None
    ) -> Tensor:
        return moe.combine(rows, slots, weights, shared)

    @quiet
    def grouped_linear(self, x: Tensor, w: Weight, offsets: Tensor) -> Tensor:
        return linear.grouped_linear(x, w, offsets)

    @quiet
    def muon_orthogonalize(self, g: Tensor, steps: int = 5) -> Tensor:
        return muon.orthogonalize(g, steps)

    @quiet
    def sample(self, logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> Tensor:
        return sampling.sample(logits, temperature, top_p, draws)
