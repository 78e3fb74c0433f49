"""Embedding lookup."""

from typing import Annotated

from torch import Tensor

from glm5_hal.contract import ACT, I32, Array, Kind, op
from glm5_hal.handles import Weight


@op(
    Kind.PRIMITIVE,
    requirements={
        "EMBEDDING-1": "Row t of the result is row ids[t] of the table, byte for byte.",
        "EMBEDDING-2": "Equal ids give equal rows; T = 0 gives an empty result.",
    },
)
def embedding(
    ids: Annotated[Tensor, Array("T", I32)], table: Annotated[Weight, Array("V D")]
) -> Annotated[Tensor, Array("T D", ACT)]:
    """Rows of the embedding table, one per token id in [0, V)."""
    return table.tensor[ids.long()]
