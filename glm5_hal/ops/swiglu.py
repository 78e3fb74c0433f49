"""SwiGLU activation."""

from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import ACT, Array, Kind, op
from glm5_hal.exact import read, sigmoid, write


@op(
    Kind.PRIMITIVE,
    requirements={
        "SWIGLU-1": "y[t, i] = g * sigmoid(g) * u with g = gate_up[t, i], u = gate_up[t, I + i], "
        "in float32 or wider, rounded once.",
        "SWIGLU-2": "Element (t, i) depends on its own g and u alone.",
        "SWIGLU-3": "Large finite |g| neither overflows nor turns NaN; g = -Inf gives NaN.",
    },
)
def swiglu(
    gate_up: Annotated[Tensor, Array("T 2*I", ACT)],
) -> Annotated[Tensor, Array("T I", ACT)]:
    """silu(gate) * up for [T, 2I] holding the gate rows first; result [T, I].

    Source: Shazeer 2020.
    """
    gate, up = gate_up.double().chunk(2, dim=-1)
    return (torch.nn.functional.silu(gate) * up).to(gate_up.dtype)


@swiglu.exact(
    requirements={
        "SWIGLU-EXACT-1": "y = write((read(g) * sigmoid(read(g))) * read(u)), sigmoid as in "
        "EXACT-SIGMOID-1.",
    }
)
def fixed_point(gate_up: Tensor) -> Tensor:
    """One exponential, one division and three products per element."""
    gate, up = read(gate_up).chunk(2, dim=-1)
    return write((gate * sigmoid(gate)) * up, gate_up.dtype)
