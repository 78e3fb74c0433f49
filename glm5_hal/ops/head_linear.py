"""One small projection per attention head: absorbing W_UK into the query, applying W_UV."""

from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import ACT, FLOAT, Array, Kind, op
from glm5_hal.exact import ACTIVATION_DIGITS, contract, digits_of, fixed, rounded
from glm5_hal.handles import Weight


@op(
    Kind.PRIMITIVE,
    requirements={
        "HEAD-LINEAR-1": "y[t, h, n] = sum over k of x[t, h, k] * w[h, n, k], accumulated in "
        "float32 or wider and rounded once to x's dtype.",
        "HEAD-LINEAR-2": "Row t depends on row t of x and on w alone.",
        "HEAD-LINEAR-3": "Head h uses matrix h and no other.",
    },
)
def head_linear(
    x: Annotated[Tensor, Array("T H K", ACT)], w: Annotated[Weight, Array("H N K", FLOAT)]
) -> Annotated[Tensor, Array("T H N", ACT)]:
    """Per-head ``x[:, h] @ w[h].T`` for x [T, H, K] and w [H, N, K]; result [T, H, N]."""
    return torch.einsum("thk,hnk->thn", x.double(), w.tensor.double()).to(x.dtype)


@head_linear.exact(
    requirements={
        "HEAD-LINEAR-EXACT-1": "As LINEAR-EXACT-1 per head: x[t, h] and w[h, n] are vectors of "
        "their own, each with its own exponent.",
    }
)
def fixed_point(x: Tensor, w: Weight) -> Tensor:
    """One exact sum per element."""
    query = fixed(x.transpose(0, 1), ACTIVATION_DIGITS)  # [H, T, K]
    product = contract(query, fixed(w.tensor, digits_of(w.dtype)))  # [H, T, N]
    return rounded(product.transpose(0, 1), x.dtype).contiguous()
