"""Elementwise functions that give an element the same bits wherever it stands.

torch's vectorised kernels for sigmoid, silu and exp2 compute the last few elements of each
thread's share with another function than the rest. `exp`, multiplication, addition and reciprocal
do not have that fault, so everything is built from these.
"""

import torch
from torch import Tensor


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), in x's dtype."""
    return torch.reciprocal(torch.exp(-x) + 1.0)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of [T, 2I], in float32, rounded once."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (gate * sigmoid(gate) * up).to(gate_up.dtype)


def rope(x: Tensor, table: Tensor, interleaved: bool) -> Tensor:
    """x [T, H, R] turned by rows of `table` [T, R] (cosines, then sines)."""
    cos, sin = table.unsqueeze(1).chunk(2, dim=-1)
    wide = x.float()
    if interleaved:
        a, b = wide[..., 0::2], wide[..., 1::2]
        turned = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    else:
        a, b = wide.chunk(2, dim=-1)
        turned = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    return turned.to(x.dtype)


def rms_norm(x: Tensor, w: Tensor, eps: float) -> Tensor:
    """x [T, D] over its root mean square, times w [D], rounded once."""
    wide = x.float()
    mean = wide.square().mean(-1, keepdim=True)
    return (wide * torch.reciprocal(torch.sqrt(mean + eps)) * w).to(x.dtype)


def layer_norm(x: Tensor, w: Tensor, b: Tensor, eps: float) -> Tensor:
    """x [T, D] centred, over its standard deviation, times w plus b, rounded once.

    In float64, where the mean of a constant row is exact.
    """
    wide = x.double()
    centred = wide - wide.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return (centred * torch.reciprocal(torch.sqrt(variance + eps)) * w + b).to(x.dtype)
