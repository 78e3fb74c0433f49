"""Fused ops of kunlun_ops and xspeedgate_ops, on Kunlunxin's XPUs.

Its indexer takes int8 queries and keys only: the contract's caches are not quantised, so there is
no place for it. Of ``rmsnorm`` two published calls disagree on the order of the arguments. What
``sparse_prefill_fwd_opt`` makes of `kvlod` and `is_causal` beside indices is not said; the form
for single queries leaves no such question.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from glm5_hal import Backend, Cache, PagedContext, Weight
from glm5_hal.backends.torch_triton import fused_calls as calls
from glm5_hal.backends.torch_triton.fused import Fused, Library

KUNLUN_OPS = Library("kunlun_ops", "the vendor's wheel, named by vLLM-Kunlun", "0.1.58", "0.2")
XSPEEDGATE = Library("xspeedgate_ops", "the vendor's wheel, named by vLLM-Kunlun", "1.1", "2")
SOURCE = "baidu/vLLM-Kunlun@09869ee"
STATISTIC_BLOCKS = 12
"""Rows of the counts that the router also fills; nothing here reads them."""


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
    """Each token is a sequence of one query. The call wants the lengths on the host as well."""
    tokens, heads, latent = q_latent.shape
    out = torch.zeros_like(q_latent)
    if not tokens:
        return out
    sums = torch.zeros(2, tokens, 1, heads, dtype=torch.float32, device=q_latent.device)
    lengths = context.lengths.contiguous()
    function(
        q_c=calls.sparse_query(q_latent, q_rope).unsqueeze(1),
        kv_cache=cache.tensor,
        indices=calls.sparse_slots(context, cache.page_size, indices).unsqueeze(1),
        kv_lod_cpu=lengths.cpu(),
        kv_lod_xpu=lengths,
        max_seq_kv=context.max_length,
        softmax_scale=scale,
        out=out.view(tokens, 1, heads, latent),
        max_logits=sums[0],
        p_sums=sums[1],
    )
    return out


def topk(
    function: Callable[..., Any], backend: Backend, scores: Tensor, lengths: Tensor, k: int
) -> Tensor:
    """Rows from 0 to their lengths, into a buffer of -1, then sorted."""
    chosen = torch.full((scores.shape[0], k), -1, dtype=torch.int32, device=scores.device)
    if chosen.numel() and scores.shape[1]:
        scores = scores.contiguous()
        function(
            logits=scores,
            srcIndices=chosen,
            numRows=scores.shape[0],
            stride0=scores.stride(0),
            stride1=scores.stride(1),
            topK=k,
            rowStarts=torch.zeros_like(lengths),
            rowEnds=lengths.contiguous(),
            seqLens=None,
            next_n=None,
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
    tokens, experts = logits.shape
    ids = torch.empty(tokens, k, dtype=torch.int32, device=logits.device)
    if tokens:
        function(
            x=logits.contiguous(),
            topk_index=ids,
            norm_score=torch.empty_like(ids, dtype=torch.float32),
            block_static=ids.new_zeros(STATISTIC_BLOCKS, experts),
            bias=bias.tensor,
            scale=1.0,
            n_group=n_group,
            topk_group=topk_group,
        )
    return calls.routed(logits, ids, normalize, scale)


def swiglu(function: Callable[..., Any], backend: Backend, gate_up: Tensor) -> Tensor:
    """The gate's half stands first in both."""
    out = gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)
    if out.numel():
        function(x=gate_up.contiguous(), y=out)
    return out


FUSED = (
    Fused(
        op="latent_attention",
        function="kunlun_ops:fwd_kvcache_mla",
        library=KUNLUN_OPS,
        parameters=("q_c", "kv_cache", "indices", "kv_lod_cpu", "kv_lod_xpu", "max_seq_kv", "out"),
        source=f"{SOURCE}, vllm_kunlun/ops/_custom_ops.py and ops/attention/flashmla.py",
        established=calls.SPARSE_KEPT,
        open={
            **calls.SPARSE_OPEN,
            "ATTENTION-5": "no word on batch invariance, and it is told the batch's longest row",
        },
        call=latent_attention,
        obstacle=calls.sparse_obstacle,
    ),
    Fused(
        op="topk",
        function="xspeedgate_ops:torch.ops.xspeedgate_ops.topk_per_row",
        library=XSPEEDGATE,
        parameters=("logits", "srcIndices", "numRows", "topK", "rowStarts", "rowEnds"),
        source=f"{SOURCE}, vllm_kunlun/models/deepseek_v2.py",
        established=calls.TOPK_KEPT,
        open=calls.TOPK_OPEN,
        call=topk,
        obstacle=calls.topk_obstacle,
    ),
    Fused(
        op="moe_route",
        function="kunlun_ops:moe_sigmoid_group_topk_norm",
        library=KUNLUN_OPS,
        parameters=("x", "topk_index", "norm_score", "block_static", "bias", "scale"),
        source=f"{SOURCE}, vllm_kunlun/ops/_custom_ops.py and ops/_kunlun_ops.py",
        established=calls.ROUTE_KEPT,
        open=calls.ROUTE_OPEN,
        call=moe_route,
        obstacle=calls.groups_obstacle,
    ),
    Fused(
        op="swiglu",
        function="kunlun_ops:swiglu",
        library=KUNLUN_OPS,
        parameters=("x", "y"),
        source=f"{SOURCE}, vllm_kunlun/ops/_custom_ops.py",
        established=calls.SWIGLU_KEPT,
        open=calls.SWIGLU_OPEN,
        call=swiglu,
        obstacle=calls.swiglu_obstacle,
    ),
)
