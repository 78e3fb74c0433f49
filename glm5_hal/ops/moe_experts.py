"""The routed experts of a layer, with the shared expert's output added last."""

from typing import Annotated

from torch import Tensor

from glm5_hal.contract import ACT, F32, FLOAT, I32, Array, Kind, op
from glm5_hal.handles import Weight
from glm5_hal.ops.grouped_linear import grouped_linear
from glm5_hal.ops.moe_combine import moe_combine
from glm5_hal.ops.moe_dispatch import moe_dispatch
from glm5_hal.ops.swiglu import swiglu


@op(
    Kind.COMPOSITE,
    requirements={
        "EXPERTS-1": "y[t] = sum over slots j, in slot order, of weights[t, j] * "
        "down_e(swiglu(gate_up_e(x[t]))) with e = ids[t, j], then + shared[t], within the bound "
        "of its parts.",
        "EXPERTS-2": "Row t depends on its own row, ids and weights alone, however the tokens are "
        "spread over experts.",
    },
)
def moe_experts(
    x: Annotated[Tensor, Array("T D", ACT)],
    ids: Annotated[Tensor, Array("T k", I32)],
    weights: Annotated[Tensor, Array("T k", F32)],
    w_gate_up: Annotated[Weight, Array("E 2*I D", FLOAT)],
    w_down: Annotated[Weight, Array("E D I", FLOAT)],
    shared: Annotated[Tensor, Array("T D", ACT)] | None = None,
) -> Annotated[Tensor, Array("T D", ACT)]:
    """Mixture output [T, D]. Source: DeepSeekMoE (2401.06066); GLM-5 has one shared expert."""
    rows, offsets, slots = moe_dispatch.reference(x, ids, w_gate_up.shape[0])
    hidden = swiglu.reference(grouped_linear.reference(rows, w_gate_up, offsets))
    return moe_combine.reference(
        grouped_linear.reference(hidden, w_down, offsets), slots, weights, shared
    )


@moe_experts.composition
def permuted(
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    w_gate_up: Weight,
    w_down: Weight,
    shared: Tensor | None = None,
) -> Tensor:
    """Dispatch, two grouped linears around swiglu, combine."""
    rows, offsets, slots = moe_dispatch(x, ids, w_gate_up.shape[0])
    hidden = swiglu(grouped_linear(rows, w_gate_up, offsets))
    return moe_combine(grouped_linear(hidden, w_down, offsets), slots, weights, shared)
