"""Fused functions that take a row at a time: norm, rotation, gate."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from glm5_hal import Backend, Weight
from glm5_hal.backends.ascend.records import Facts, name_of


def rms_norm_facts(x: Tensor, w: Weight, eps: float, residual: Tensor | None = None) -> Facts:
    return {"activations": name_of(x.dtype), "width": x.shape[1]}


def rms_norm(
    function: Callable[..., Any],
    backend: Backend,
    x: Tensor,
    w: Weight,
    eps: float,
    residual: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """npu_add_rms_norm would want the weight in bfloat16, and its rows hang on the batch."""
    h = x if residual is None else (x.float() + residual.float()).to(x.dtype)
    y, _ = function(h.contiguous(), w.tensor, eps)
    return y, h


def rope_facts(x: Tensor, positions: Tensor, table: Weight, interleaved: bool) -> Facts:
    _, heads, width = x.shape
    return {"activations": name_of(x.dtype), "heads": heads, "width": width}


def rope(
    function: Callable[..., Any],
    backend: Backend,
    x: Tensor,
    positions: Tensor,
    table: Weight,
    interleaved: bool,
) -> Tensor:
    """Cosines and sines [T, 1, R], each angle where its two elements are."""
    cos, sin = table.tensor[positions.long()].unsqueeze(1).chunk(2, dim=-1)
    if interleaved:
        cos, sin = (part.repeat_interleave(2, dim=-1) for part in (cos, sin))
    else:
        cos, sin = (torch.cat((part, part), dim=-1) for part in (cos, sin))
    mode = "interleave" if interleaved else "half"
    turned: Tensor = function(x.contiguous(), cos, sin, rotary_mode=mode)
    return turned


def swiglu_facts(gate_up: Tensor) -> Facts:
    return {"activations": name_of(gate_up.dtype)}


def swiglu(function: Callable[..., Any], backend: Backend, gate_up: Tensor) -> Tensor:
    """The function takes the halves in the contract's order."""
    gated: Tensor = function(gate_up.contiguous(), dim=-1)
    return gated
