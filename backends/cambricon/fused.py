"""Fused ops of torch_mlu_ops, on Cambricon's MLUs.

Its indexer, ``masked_indexer_select_paged_kv``, has had two signatures, and what it writes are
entries of a block table whose order and padding are not said: the contract's positions cannot be
had of it. Its norms are published with weights of the activations' dtype; the contract's are
float32.
"""

from torch import Tensor

from glm5_hal import Backend, Weight
from glm5_hal.backends.torch_triton import fused_calls as calls
from glm5_hal.backends.torch_triton.fused import Fused, Library

TORCH_MLU_OPS = Library("torch_mlu_ops", "the vendor's wheel for this torch_mlu")
SOURCE = "Cambricon/vllm-mlu@b992520, vllm_mlu/_mlu_ops.py"


@calls.router
def moe_route(function: calls.Function, asked: calls.Routing) -> Tensor:
    """The weights that it computes as well are not used. One group is none."""
    groups = (asked.n_group, asked.topk_group) if asked.n_group > 1 else (-1, 0)
    ids: Tensor = function(
        asked.logits, asked.k, False, *groups, route_scale=1.0, score_bias=asked.bias
    )[1]
    return ids


def grouped_linear(
    function: calls.Function, backend: Backend, x: Tensor, w: Weight, offsets: Tensor
) -> Tensor:
    """Rows stand by expert already; it is told how many each has, and at most."""
    if not x.shape[0]:
        return x.new_empty(0, w.shape[1])
    out: Tensor = function(
        x.contiguous(), w.tensor, offsets.diff(), None, None, None, None, x.shape[0]
    )
    return out


def swiglu(function: calls.Function, backend: Backend, gate_up: Tensor) -> Tensor:
    """The gate's half stands first in both."""
    if not gate_up.numel():
        return gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)
    out: Tensor = function(gate_up.contiguous(), act_mode="silu", is_gated=True)
    return out


FUSED = (
    Fused(
        op="moe_route",
        function="torch_mlu_ops:moe_sigmoid_topk",
        library=TORCH_MLU_OPS,
        parameters=("route_scale", "score_bias"),
        source=SOURCE,
        established=calls.ROUTE_KEPT,
        open=calls.ROUTE_OPEN,
        call=moe_route,
        obstacle=calls.groups_obstacle,
    ),
    Fused(
        op="grouped_linear",
        function="torch_mlu_ops:group_gemm",
        library=TORCH_MLU_OPS,
        parameters=("d",),
        source=SOURCE,
        established=calls.GROUPED_KEPT,
        open=calls.GROUPED_OPEN,
        call=grouped_linear,
        obstacle=calls.grouped_obstacle,
    ),
    Fused(
        op="swiglu",
        function="torch_mlu_ops:active",
        library=TORCH_MLU_OPS,
        parameters=("act_mode", "is_gated"),
        source=SOURCE,
        established=calls.SWIGLU_KEPT,
        open=calls.SWIGLU_OPEN,
        call=swiglu,
        obstacle=calls.swiglu_obstacle,
    ),
)
