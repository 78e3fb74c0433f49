"""Multi-head latent attention with keys and values expanded per head."""

from typing import Annotated

from torch import Tensor

from glm5_hal.contract import ACT, FLOAT, I32, Array, Kind, op
from glm5_hal.handles import Cache, PagedContext, Weight
from glm5_hal.ops.mla import mla


@op(
    Kind.OPTIONAL,
    requirements={
        "MLA-EXPANDED-1": "The function of mla, within the same bound, computed with keys and "
        "values expanded per head.",
        "MLA-EXPANDED-2": "Visibility and independence as MLA-2.",
    },
)
def mla_expanded(
    q_nope: Annotated[Tensor, Array("T H N", ACT)],
    q_rope: Annotated[Tensor, Array("T H R", ACT)],
    cache: Annotated[Cache, Array("slots C+R", ACT)],
    context: PagedContext,
    w_uk: Annotated[Weight, Array("H C N", FLOAT)],
    w_uv: Annotated[Weight, Array("H V C", FLOAT)],
    scale: float,
    indices: Annotated[Tensor, Array("T k", I32)] | None = None,
) -> Annotated[Tensor, Array("T H V", ACT)]:
    """`mla` in multi-head form, [T, H, V]: fewer operations a pair, more bytes a cached row."""
    return mla.reference(q_nope, q_rope, cache, context, w_uk, w_uv, scale, indices)
