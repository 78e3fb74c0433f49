"""Fused ops of LightOp and of the vendor's FlashMLA, on Hygon's DCUs.

Only what takes bfloat16 has a place: the contract's caches hold no quantised rows.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from glm5_hal import Backend, Cache, PagedContext, Weight
from glm5_hal.backends.torch_triton import fused_calls as calls
from glm5_hal.backends.torch_triton.device import TorchDeviceBackend
from glm5_hal.backends.torch_triton.fused import Fused, Library

LIGHTOP = Library("lightop", "the vendor's wheel for its DTK", "0.6", "0.7")
FLASH_MLA = Library("flash_mla", "the vendor's wheel for its DTK")
SOURCE = "HYGON-AI/vllm-plugin-das"
FLOAT8_ONLY = "gfx938"


def architecture(backend: type[TorchDeviceBackend]) -> str:
    """What device 0 calls itself, such as gfx936."""
    return str(backend._namespace().get_device_properties(0).gcnArchName).split(":")[0]


def _indexes_bfloat16(backend: type[TorchDeviceBackend]) -> str | None:
    if architecture(backend) != FLOAT8_ONLY:
        return None
    return f"device 0 is {FLOAT8_ONLY}, where every published call of the indexer takes float8"


def latent_attention(
    function: Callable[..., Any],
    backend: Backend,
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Cache,
    context: PagedContext,
    scale: float,
    indices: Tensor,
) -> Tensor:
    """Heads are filled up to 64, as the plug-in does."""
    return calls.flash_mla_sparse(
        function, q_latent, q_rope, cache, context, scale, indices, heads=64
    )


def index_scores(
    function: Callable[..., Any],
    backend: Backend,
    q: Tensor,
    w: Tensor,
    keys: Cache,
    context: PagedContext,
    scale: float,
) -> Tensor:
    """The paged form, each token a sequence of its own, without metadata, nothing cleaned."""
    if not q.shape[0]:
        return w.new_empty(0, context.max_length)
    paged = calls.paged_query(q, w, keys, context, scale)
    scores = function(
        paged.q, paged.keys, paged.weights, paged.lengths, paged.table, None, paged.width, False
    )
    return calls.visible_scores(scores, context)


def topk(
    function: Callable[..., Any], backend: Backend, scores: Tensor, lengths: Tensor, k: int
) -> Tensor:
    """Rows from 0 to their lengths, into a buffer of -1, then sorted."""
    chosen = torch.full((scores.shape[0], k), -1, dtype=torch.int32, device=scores.device)
    if chosen.numel() and scores.shape[1]:
        scores = scores.contiguous()
        function(
            scores,
            torch.zeros_like(lengths),
            lengths.contiguous(),
            chosen,
            scores.shape[0],
            scores.stride(0),
            scores.stride(1),
            k,
        )
    return calls.ascending(chosen)


def moe_route(
    function: Callable[..., Any],
    backend: Backend,
    logits: Tensor,
    bias: Weight,
    k: int,
    n_group: int,
    topk_group: int,
    normalize: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The library chooses; it always normalises, so its weights are not used."""
    if not logits.shape[0]:
        return calls.nothing_routed(logits, k)
    _, ids = function(logits.contiguous(), bias.tensor, n_group, topk_group, k, 0, 1.0)
    return calls.routed(logits, ids, normalize, scale)


def _route_obstacle(
    backend: Backend,
    logits: Tensor,
    bias: Weight,
    k: int,
    n_group: int,
    topk_group: int,
    normalize: bool,
    scale: float,
) -> str | None:
    experts = logits.shape[1]
    if experts > n_group and experts % n_group == 0:
        return None
    return f"{experts} experts in {n_group} groups; it takes equal groups of several"


FUSED = (
    Fused(
        op="latent_attention",
        function="flash_mla.flash_mla_interface:flash_mla_sparse_fwd",
        library=FLASH_MLA,
        parameters=("q", "kv", "indices", "sm_scale", "d_v"),
        source=f"{SOURCE}@0e048c7, vllm_hcu/v1/attention/ops/flashmla.py; deepseek-ai/FlashMLA",
        established=calls.SPARSE_KEPT,
        open=calls.SPARSE_OPEN,
        call=latent_attention,
        obstacle=calls.sparse_obstacle,
    ),
    Fused(
        op="index_scores",
        function="lightop.attention:paged_mqa_logits",
        library=LIGHTOP,
        parameters=(),
        source=f"{SOURCE}@058761f, vllm_hcu/v1/attention/ops/rocm_aiter_mla_sparse.py",
        established=calls.SCORES_KEPT,
        open={
            **calls.SCORES_OPEN,
            "INDEX-SCORES-1": "the plug-in's own test rounds products to bfloat16 and allows "
            "2e-2: not kept, as far as it shows",
        },
        call=index_scores,
        obstacle=calls.index_obstacle,
        device=_indexes_bfloat16,
    ),
    Fused(
        op="topk",
        function="lightop.attention:top_k_per_row_prefill",
        library=LIGHTOP,
        parameters=(),
        source=f"{SOURCE}@058761f, vllm_hcu/v1/attention/ops/rocm_aiter_mla_sparse.py",
        established=calls.TOPK_KEPT,
        open=calls.TOPK_OPEN,
        call=topk,
        obstacle=calls.topk_obstacle,
    ),
    Fused(
        op="moe_route",
        function="lightop.moe:moe_fused_gate",
        library=LIGHTOP,
        parameters=(),
        source=f"{SOURCE}, make_hcu_grouped_topk_router and lightop_moe_gate_kwargs",
        established=calls.ROUTE_KEPT,
        open=calls.ROUTE_OPEN,
        call=moe_route,
        obstacle=_route_obstacle,
    ),
)
