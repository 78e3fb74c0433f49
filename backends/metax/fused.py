"""Fused ops of MetaX' DeepGEMM, FlashMLA and mcoplib, for MACA.

Its ``top_k_per_row`` kernels place what they find with atomics (csrc/libtorch_stable/sampler.cu of
vLLM-metax), so which of several equals is chosen varies from run to run: there is no place for
them. Its int8 and float8 indexers have none either, the contract's caches are not quantised.
"""

import importlib

from torch import Tensor

from glm5_hal.backends.torch_triton import fused_calls as calls
from glm5_hal.backends.torch_triton.fused import Fused, FusedBackend, Library

DEEP_GEMM = Library("deep_gemm", "the vendor's wheel for MACA")
FLASH_MLA = Library("flash_mla", "the vendor's wheel for MACA")
MCOPLIB = Library("mcoplib", "the vendor's wheel for MACA")
SOURCE = "MetaX-MACA/vLLM-metax@3aadf08"
SIGMOID = 1
"""Its number of the function that makes scores of logits."""
LARGEST = 32
"""Groups, and experts of a token, that the router's source allows."""


@calls.attention
def latent_attention(function: calls.Function, asked: calls.SparseQuery) -> Tensor:
    """Heads are filled up to 64, as the plug-in does."""
    return calls.flash_mla_sparse(function, asked, heads=64)


@calls.indexer
def index_scores(
    function: calls.Function, backend: FusedBackend, paged: calls.PagedQuery
) -> Tensor:
    """The paged form, each token a sequence of its own; lengths are [T, 1], nothing is cleaned."""
    lengths = paged.lengths.unsqueeze(1)
    properties = backend._namespace().get_device_properties(backend.index)
    schedule = importlib.import_module("deep_gemm").get_paged_mqa_logits_metadata(
        lengths, paged.keys.shape[1], properties.multi_processor_count
    )
    scores: Tensor = function(
        paged.q,
        paged.keys,
        paged.weights,
        lengths,
        paged.table,
        schedule,
        paged.width,
        clean_logits=False,
    )
    return scores


@calls.router
def moe_route(function: calls.Function, asked: calls.Routing) -> Tensor:
    """The weights that it computes as well are not used."""
    groups = (asked.n_group, asked.topk_group)
    ids: Tensor = function(asked.logits, *groups, asked.k, False, 1.0, asked.bias, SIGMOID)[1]
    return ids


@calls.router_obstacle
def _route_obstacle(asked: calls.Routing) -> str | None:
    if asked.n_group > LARGEST or asked.k > LARGEST:
        return (
            f"{asked.n_group} groups, {asked.k} experts a token; it takes up to {LARGEST} of either"
        )
    return calls.uneven(asked)


FUSED = (
    Fused(
        op="latent_attention",
        function="flash_mla.flash_mla_interface:flash_mla_sparse_fwd",
        library=FLASH_MLA,
        parameters=("q", "kv", "indices", "sm_scale", "d_v"),
        source=f"{SOURCE}, vllm_metax/v1/attention/backends/mla/flashmla_sparse.py",
        established=calls.SPARSE_KEPT,
        open=calls.SPARSE_OPEN,
        call=latent_attention,
        obstacle=calls.sparse_obstacle,
    ),
    Fused(
        op="index_scores",
        function="deep_gemm:bf16_paged_mqa_logits",
        library=DEEP_GEMM,
        parameters=("clean_logits",),
        besides=("get_paged_mqa_logits_metadata",),
        source=f"{SOURCE}, vllm_metax/utils/deep_gemm.py and v1/attention/backends/mla/indexer.py",
        established=calls.SCORES_KEPT,
        open=calls.SCORES_OPEN,
        call=index_scores,
        obstacle=calls.index_obstacle,
    ),
    Fused(
        op="moe_route",
        function="mcoplib._moe_C:torch.ops._moe_C.grouped_topk",
        library=MCOPLIB,
        parameters=("n_group", "topk_group", "topk", "renormalize", "bias", "scoring_func"),
        source=f"{SOURCE}, vllm_metax/_custom_ops.py, csrc/libtorch_stable/moe/torch_bindings.cpp",
        established=calls.ROUTE_KEPT,
        open={
            **calls.ROUTE_OPEN,
            "ROUTE-3": "the plug-in's source compares indices among equals; whether mcoplib is "
            "built from it is not said",
        },
        call=moe_route,
        obstacle=_route_obstacle,
    ),
)
