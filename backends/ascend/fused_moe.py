"""Fused functions of the mixture of experts: route, dispatch, multiply, combine."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from glm5_hal import Backend, Weight
from glm5_hal.backends.ascend.records import Facts, name_of
from glm5_hal.backends.torch_triton.fused_calls import weighed

_TOP_TWO, _NORM_FIRST, _SIGMOID = 1, 0, 1
"""npu_moe_gating_top_k: a group's score, the only renorm there is, the kind of norm."""
_COUNTS, _SLOTS = 1, 1
"""npu_moe_init_routing_v2: experts' rows are counted; the slot of each row is returned."""
_BY_SLOT = 2
"""npu_moe_finalize_routing: rows are named in the order of the slots, none is dropped."""
_ONE_RESULT, _BY_ROW, _CUMULATIVE = 3, 0, 0
"""npu_grouped_matmul: one tensor is returned; what is grouped; what the list of groups holds."""
_ALIGNED = 32


def moe_route_facts(
    logits: Tensor,
    bias: Weight,
    k: int,
    n_group: int,
    topk_group: int,
    normalize: bool,
    scale: float,
) -> Facts:
    experts = logits.shape[1]
    group = experts // n_group
    return {
        "experts": experts,
        "group_size": group,
        "padded_experts": -(-group // _ALIGNED) * _ALIGNED * n_group,
        "uneven_experts": experts % n_group,
    }


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
    """Its weights are normalised in another order than the slots'; its sigmoids are taken."""
    _, chosen, scores = function(
        logits.contiguous(),
        k,
        bias=bias.tensor,
        k_group=topk_group,
        group_count=n_group,
        group_select_mode=_TOP_TWO,
        renorm=_NORM_FIRST,
        norm_type=_SIGMOID,
        out_flag=True,
    )
    ids = chosen.sort(dim=-1).values
    return ids, weighed(scores.gather(1, ids.long()), normalize, scale)


def moe_dispatch_facts(x: Tensor, ids: Tensor, experts: int) -> Facts:
    return {"activations": name_of(x.dtype), "experts": experts}


def moe_dispatch(
    function: Callable[..., Any], backend: Backend, x: Tensor, ids: Tensor, experts: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Every expert is active, so the slots of all rows are returned."""
    rows, slots, counts, _ = function(
        x.contiguous(),
        ids.contiguous(),
        active_num=ids.numel(),
        expert_num=experts,
        expert_tokens_num_type=_COUNTS,
        expert_tokens_num_flag=True,
        active_expert_range=[0, experts],
        row_idx_type=_SLOTS,
    )
    offsets = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    return rows, offsets.int(), slots


def grouped_linear_facts(x: Tensor, w: Weight, offsets: Tensor) -> Facts:
    return {
        "activations": name_of(x.dtype),
        "mixed": x.dtype != w.dtype,
        "width": x.shape[1],
        "columns": w.shape[1],
        "experts": w.shape[0],
    }


def grouped_linear(
    function: Callable[..., Any], backend: Backend, x: Tensor, w: Weight, offsets: Tensor
) -> Tensor:
    """Matrices are given transposed, as views."""
    result: Tensor
    (result,) = function(
        [x.contiguous()],
        [w.tensor.transpose(1, 2)],
        group_list=offsets[1:].long(),
        split_item=_ONE_RESULT,
        group_type=_BY_ROW,
        group_list_type=_CUMULATIVE,
    )
    return result


def moe_combine_facts(
    rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None = None
) -> Facts:
    return {"activations": name_of(rows.dtype)}


def moe_combine(
    function: Callable[..., Any],
    backend: Backend,
    rows: Tensor,
    slots: Tensor,
    weights: Tensor,
    shared: Tensor | None = None,
) -> Tensor:
    """Its skip rows are added first; the contract adds the shared expert's last."""
    places = torch.empty_like(slots)
    places[slots.long()] = torch.arange(slots.numel(), dtype=slots.dtype, device=slots.device)
    combined: Tensor = function(
        rows.contiguous(),
        skip1=None,
        skip2=None,
        bias=None,
        scales=weights.contiguous(),
        expanded_src_to_dst_row=places,
        export_for_source_row=None,
        drop_pad_mode=_BY_SLOT,
    )
    return combined if shared is None else combined + shared
