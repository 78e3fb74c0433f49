"""Fused ops of LightOp and of the vendor's FlashMLA, on Hygon's DCUs.

Only what takes bfloat16 has a place: the contract's caches hold no quantised rows.
"""

from torch import Tensor

from glm5_hal import Backend
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


@calls.attention
def latent_attention(function: calls.Function, asked: calls.SparseQuery) -> Tensor:
    """Heads are filled up to 64, as the plug-in does."""
    return calls.flash_mla_sparse(function, asked, heads=64)


@calls.indexer
def index_scores(function: calls.Function, backend: Backend, paged: calls.PagedQuery) -> Tensor:
    """The paged form, each token a sequence of its own, without metadata, nothing cleaned."""
    scores: Tensor = function(
        paged.q, paged.keys, paged.weights, paged.lengths, paged.table, None, paged.width, False
    )
    return scores


@calls.chooser
def topk(function: calls.Function, rows: calls.Rows) -> None:
    """Rows from 0 to their lengths."""
    count, k = rows.chosen.shape
    strides = rows.scores.stride()
    function(rows.scores, rows.starts, rows.ends, rows.chosen, count, *strides, k)


@calls.router
def moe_route(function: calls.Function, asked: calls.Routing) -> Tensor:
    """It always normalises, so its weights are not used."""
    groups = (asked.n_group, asked.topk_group)
    ids: Tensor = function(asked.logits, asked.bias, *groups, asked.k, 0, 1.0)[1]
    return ids


@calls.router_obstacle
def _route_obstacle(asked: calls.Routing) -> str | None:
    experts, groups = asked.experts, asked.n_group
    if experts > groups and experts % groups == 0:
        return None
    return f"{experts} experts in {groups} groups; it takes equal groups of several"


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
