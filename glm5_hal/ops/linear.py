"""Linear projection, the contraction most of the model is made of."""

from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import ACT, FLOAT, Array, Kind, op
from glm5_hal.exact import ACTIVATION_DIGITS, contract, digits_of, fixed, rounded
from glm5_hal.handles import Weight


@op(
    Kind.PRIMITIVE,
    requirements={
        "LINEAR-1": "y[t, n] = sum over k of x[t, k] * w[n, k], accumulated in float32 or wider "
        "and rounded once to the output dtype.",
        "LINEAR-2": "A row of the result depends on its own row of x and on w alone: not on T, on "
        "its place among the rows, or on what the other rows hold.",
        "LINEAR-3": "Products enter at full operand precision: no TF32, HF32 or other narrowing.",
        "LINEAR-4": "NaN or Inf in row t reaches row t of the result only; T = 0 gives an empty "
        "result.",
        "LINEAR-5": "out_dtype=float32 returns the accumulated value without a detour through a "
        "narrower dtype.",
    },
)
def linear(
    x: Annotated[Tensor, Array("T K", ACT)],
    w: Annotated[Weight, Array("N K", FLOAT)],
    out_dtype: torch.dtype | None = None,
) -> Annotated[Tensor, Array("T N", FLOAT)]:
    """``x @ w.T`` for x [T, K] and w [N, K]; result [T, N] in `out_dtype` (default: x's)."""
    return (x.double() @ w.tensor.double().T).to(out_dtype or x.dtype)


@linear.exact(
    requirements={
        "LINEAR-EXACT-1": "Rows of x are fixed with 3 digits, rows of w with 2 (bfloat16) or 3 "
        "(float32); y[t, n] is their exact sum of products, rounded once to float32 and then to "
        "the output dtype.",
    }
)
def fixed_point(x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
    """One exact sum per element."""
    product = contract(fixed(x, ACTIVATION_DIGITS), fixed(w.tensor, digits_of(w.dtype)))
    return rounded(product, out_dtype or x.dtype)
