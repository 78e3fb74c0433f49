"""One linear per expert over rows in expert order."""

import itertools
from typing import Annotated

from torch import Tensor

from glm5_hal.contract import ACT, FLOAT, I32, Array, Kind, op
from glm5_hal.exact import ACTIVATION_DIGITS, contract, digits_of, fixed, rounded
from glm5_hal.handles import Weight


@op(
    Kind.PRIMITIVE,
    requirements={
        "GROUPED-LINEAR-1": "Row p with offsets[e] <= p < offsets[e + 1] is x[p] @ w[e].T, "
        "accumulated in float32 or wider and rounded once to x's dtype.",
        "GROUPED-LINEAR-2": "Row p depends on x[p] and its expert's matrix alone: not on how many "
        "rows its expert or any other has.",
        "GROUPED-LINEAR-3": "Experts without rows are no error; one expert may own all rows.",
    },
)
def grouped_linear(
    x: Annotated[Tensor, Array("P K", ACT)],
    w: Annotated[Weight, Array("E N K", FLOAT)],
    offsets: Annotated[Tensor, Array("E+1", I32)],
) -> Annotated[Tensor, Array("P N", ACT)]:
    """Rows [P, N]: each expert's slice of x [P, K] times its matrix of w [E, N, K]."""
    out = x.new_empty(x.shape[0], w.shape[1])
    bounds = offsets.tolist()
    for expert, (start, end) in enumerate(itertools.pairwise(bounds)):
        out[start:end] = (x[start:end].double() @ w.tensor[expert].double().T).to(x.dtype)
    return out


@grouped_linear.exact(
    requirements={
        "GROUPED-LINEAR-EXACT-1": "As LINEAR-EXACT-1, each row with its expert's matrix.",
    }
)
def fixed_point(x: Tensor, w: Weight, offsets: Tensor) -> Tensor:
    """One exact sum per element."""
    out = x.new_empty(x.shape[0], w.shape[1])
    digits = digits_of(w.dtype)
    for expert, (start, end) in enumerate(itertools.pairwise(offsets.tolist())):
        rows = fixed(x[start:end], ACTIVATION_DIGITS)
        out[start:end] = rounded(contract(rows, fixed(w.tensor[expert], digits)), x.dtype)
    return out
