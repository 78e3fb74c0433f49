"""Fused ops of MetaX' DeepGEMM, FlashMLA and mcoplib, for MACA.

Its ``top_k_per_row`` kernels place what they find with atomics (csrc/libtorch_stable/sampler.cu of
vLLM-metax), so which of several equals is chosen varies from run to run: there is no place for
them. Its int8 and float8 indexers have none either, the contract's caches are not quantised.
"""

import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor

from glm5_hal import Cache, PagedContext, Weight
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


def latent_attention(
    function: Callable[..., Any],
    backend: FusedBackend,
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
    backend: FusedBackend,
    q: Tensor,
    w: Tensor,
    keys: Cache,
    context: PagedContext,
    scale: float,
) -> Tensor:
    """The paged form, each token a sequence of its own; lengths are [T, 1], nothing is cleaned."""
    if not q.shape[0]:
        return w.new_empty(0, context.max_length)
    paged = calls.paged_query(q, w, keys, context, scale)
    lengths = paged.lengths.unsqueeze(1)
    schedule = importlib.import_module("deep_gemm").get_paged_mqa_logits_metadata(
        lengths,
        keys.page_size,
        backend._namespace().get_device_properties(backend.index).multi_processor_count,
    )
    scores = function(
        paged.q,
        paged.keys,
        paged.weights,
        lengths,
        paged.table,
        schedule,
        paged.width,
        clean_logits=False,
    )
    return calls.visible_scores(scores, context)


def moe_route(
    function: Callable[..., Any],
    backend: FusedBackend,
    logits: Tensor,
    bias: Weight,
    k: int,
    n_group: int,
    topk_group: int,
    normalize: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The library chooses; the weights are computed as the contract says."""
    if not logits.shape[0]:
        return calls.nothing_routed(logits, k)
    _, ids = function(logits.contiguous(), n_group, topk_group, k, False, 1.0, bias.tensor, SIGMOID)
    return calls.routed(logits, ids, normalize, scale)


def _route_obstacle(
    backend: FusedBackend,
    logits: Tensor,
    bias: Weight,
    k: int,
    n_group: int,
    topk_group: int,
    normalize: bool,
    scale: float,
) -> str | None:
    if n_group > LARGEST or k > LARGEST:
        return f"{n_group} groups, {k} experts a token; it takes up to {LARGEST} of either"
    return calls.groups_obstacle(backend, logits, bias, k, n_group, topk_group, normalize, scale)


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
