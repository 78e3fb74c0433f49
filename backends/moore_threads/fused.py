"""Fused ops of MATE, Moore Threads' library for its MP31 generation.

Its indexer takes float8 queries and keys only. The contract's caches hold bfloat16 or float32,
and INDEX-SCORES-1 multiplies what they hold: there is no place for it.
"""

import torch
from torch import Tensor

from glm5_hal import Backend, Weight
from glm5_hal.backends.torch_triton import fused_calls as calls
from glm5_hal.backends.torch_triton.device import TorchDeviceBackend
from glm5_hal.backends.torch_triton.fused import Fused, Library

MATE = Library("mate", "from github.com/MooreThreads/mate", "0.2", "0.3")
SOURCE = "MooreThreads/mate@3f58cc3 (0.2.2)"
CAPABILITY = (3, 1)
BLOCK = 128
"""Rows of one expert that a tile of the grouped product takes."""
ROUTERS = frozenset(
    {(128, 4), (128, 8), (160, 1), (160, 8)}
    | {(experts, groups) for experts in (256, 384) for groups in (1, 8, 16)}
)
"""Experts and groups whose kernel has been read, in csrc/moe_fused_gate.mu."""


def _device(backend: type[TorchDeviceBackend]) -> str | None:
    found = backend._capability(0)
    return None if found == CAPABILITY else f"device 0 has capability {found}, MATE takes (3, 1)"


@calls.attention
def latent_attention(function: calls.Function, asked: calls.SparseQuery) -> Tensor:
    """The kernel fills up the heads by itself."""
    return calls.flash_mla_sparse(function, asked, heads=1)


@calls.router
def moe_route(function: calls.Function, asked: calls.Routing) -> Tensor:
    """Its weights, normalised without the contract's 1e-20, are not used."""
    ids: Tensor = function(
        input=asked.logits,
        bias=asked.bias,
        num_expert_group=asked.n_group,
        topk_group=asked.topk_group,
        topk=asked.k,
        num_fused_shared_experts=0,
        routed_scaling_factor=1.0,
        renormalize=False,
        apply_routed_scaling_factor_on_output=False,
    )[1]
    return ids


@calls.router_obstacle
def _route_obstacle(asked: calls.Routing) -> str | None:
    if (asked.experts, asked.n_group) in ROUTERS:
        return None
    return (
        f"{asked.experts} experts in {asked.n_group} groups; it has no kernel of its own for these"
    )


def grouped_linear(
    function: calls.Function, backend: Backend, x: Tensor, w: Weight, offsets: Tensor
) -> Tensor:
    """Each expert's rows begin at a multiple of 128; rows between them belong to none (-1)."""
    rows, (experts, columns, _) = x.shape[0], w.shape
    if not rows:
        return x.new_empty(0, columns)
    blocks = (offsets.diff() + BLOCK - 1) // BLOCK * BLOCK
    starts = blocks.cumsum(0) - blocks
    place = torch.arange(rows, dtype=torch.int32, device=x.device)
    expert = torch.searchsorted(offsets[1:].contiguous(), place, right=True)
    target = starts[expert] + place - offsets[expert]
    size = -(-(rows + (BLOCK - 1) * min(experts, rows)) // BLOCK) * BLOCK  # at most
    spread = x.new_zeros(size, x.shape[1]).index_copy_(0, target, x)
    owner = torch.full((size,), -1, dtype=torch.int32, device=x.device)
    out = x.new_empty(size, columns)
    function(
        a=spread,
        b=w.tensor,
        d=out,
        m_indices=owner.index_copy_(0, target, expert.int()),
        alignment_m=BLOCK,
    )
    return out.index_select(0, target)


FUSED = (
    Fused(
        op="latent_attention",
        function="mate.flashmla:flash_mla_sparse_fwd",
        library=MATE,
        parameters=("q", "kv", "indices", "sm_scale", "d_v"),
        source=f"{SOURCE}, mate/flashmla.py",
        established=calls.SPARSE_KEPT,
        open={
            **calls.SPARSE_OPEN,
            "ATTENTION-1": "built with fast mathematics, subnormals flushed "
            "(sparse_mla_prefill_common.py); no bound of the error is published",
        },
        call=latent_attention,
        obstacle=calls.sparse_obstacle,
        device=_device,
    ),
    Fused(
        op="moe_route",
        function="mate.moe_fused_gate:moe_fused_gate",
        library=MATE,
        parameters=(
            "input",
            "bias",
            "num_expert_group",
            "topk_group",
            "topk",
            "num_fused_shared_experts",
            "routed_scaling_factor",
            "renormalize",
            "apply_routed_scaling_factor_on_output",
        ),
        source=f"{SOURCE}, mate/moe_fused_gate.py, csrc/moe_fused_gate.mu",
        established={
            **calls.ROUTE_KEPT,
            "RUN-1": "by its source: no atomics, one warp a row",
            "ROUTE-2": "by its source: the sum of the two largest, in float32",
            "ROUTE-3": "by its source: the lowest index, of experts and of groups",
            "ROUTE-6": "by its source: one warp a row",
        },
        open={
            "ROUTE-1": "sigmoids that choose come from an approximate exp2 and one Newton step; "
            "no bound of the error is published"
        },
        call=moe_route,
        obstacle=_route_obstacle,
        device=_device,
    ),
    Fused(
        op="grouped_linear",
        function="mate.deep_gemm:m_grouped_bf16_gemm_nt_contiguous",
        library=MATE,
        parameters=("a", "b", "d", "m_indices", "alignment_m"),
        source=f"{SOURCE}, mate/deep_gemm.py, tests/test_deep_gemm.py",
        established=calls.GROUPED_KEPT,
        open=calls.GROUPED_OPEN,
        call=grouped_linear,
        obstacle=calls.grouped_obstacle,
        device=_device,
    ),
)
