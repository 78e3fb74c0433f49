"""Fused ops of kunlun_ops and xspeedgate_ops, on Kunlunxin's XPUs.

Its indexer takes int8 queries and keys only: the contract's caches are not quantised, so there is
no place for it. Of ``rmsnorm`` two published calls disagree on the order of the arguments. What
``sparse_prefill_fwd_opt`` makes of `kvlod` and `is_causal` beside indices is not said; the form
for single queries leaves no such question.
"""

import torch
from torch import Tensor

from glm5_hal import Backend
from glm5_hal.backends.torch_triton import fused_calls as calls
from glm5_hal.backends.torch_triton.fused import Fused, Library

KUNLUN_OPS = Library("kunlun_ops", "the vendor's wheel, named by vLLM-Kunlun", "0.1.58", "0.2")
XSPEEDGATE = Library("xspeedgate_ops", "the vendor's wheel, named by vLLM-Kunlun", "1.1", "2")
SOURCE = "baidu/vLLM-Kunlun@09869ee"
STATISTIC_BLOCKS = 12
"""Rows of the counts that the router also fills; nothing here reads them."""


@calls.attention
def latent_attention(function: calls.Function, asked: calls.SparseQuery) -> Tensor:
    """Each token is a sequence of one query. The call wants the lengths on the host as well."""
    tokens, heads, latent = asked.q_latent.shape
    out = torch.zeros_like(asked.q_latent)
    sums = torch.zeros(2, tokens, 1, heads, dtype=torch.float32, device=out.device)
    lengths = asked.context.lengths.contiguous()
    function(
        q_c=asked.query().unsqueeze(1),
        kv_cache=asked.cache.tensor,
        indices=asked.slots().unsqueeze(1),
        kv_lod_cpu=lengths.cpu(),
        kv_lod_xpu=lengths,
        max_seq_kv=asked.context.max_length,
        softmax_scale=asked.scale,
        out=out.view(tokens, 1, heads, latent),
        max_logits=sums[0],
        p_sums=sums[1],
    )
    return out


@calls.chooser
def topk(function: calls.Function, rows: calls.Rows) -> None:
    """Rows from 0 to their lengths."""
    function(
        logits=rows.scores,
        srcIndices=rows.chosen,
        numRows=rows.chosen.shape[0],
        stride0=rows.scores.stride(0),
        stride1=rows.scores.stride(1),
        topK=rows.chosen.shape[1],
        rowStarts=rows.starts,
        rowEnds=rows.ends,
        seqLens=None,
        next_n=None,
    )


@calls.router
def moe_route(function: calls.Function, asked: calls.Routing) -> Tensor:
    """It always normalises, so its weights are not used."""
    ids = asked.logits.new_empty(asked.logits.shape[0], asked.k, dtype=torch.int32)
    function(
        x=asked.logits,
        topk_index=ids,
        norm_score=torch.empty_like(ids, dtype=torch.float32),
        block_static=ids.new_zeros(STATISTIC_BLOCKS, asked.experts),
        bias=asked.bias,
        scale=1.0,
        n_group=asked.n_group,
        topk_group=asked.topk_group,
    )
    return ids


def swiglu(function: calls.Function, backend: Backend, gate_up: Tensor) -> Tensor:
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
