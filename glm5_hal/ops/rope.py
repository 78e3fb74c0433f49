"""Rotary position embedding."""

from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import ACT, F32, I32, Array, Kind, op
from glm5_hal.exact import read, write
from glm5_hal.handles import Weight


@op(
    Kind.PRIMITIVE,
    requirements={
        "ROPE-1": "Interleaved: pair j is (x[2j], x[2j+1]). Half-split: pair j is "
        "(x[j], x[j + R/2]).",
        "ROPE-2": "Pair j at position p turns by the angle whose cosine and sine stand in "
        "table[p, j] and table[p, R/2 + j]: (a, b) -> (a cos - b sin, b cos + a sin), in float32 "
        "or wider, rounded once. The order of the elements is that of the input.",
        "ROPE-3": "Row t depends on row t of x and on positions[t] alone.",
        "ROPE-4": "Position 0 returns x unchanged.",
    },
)
def rope(
    x: Annotated[Tensor, Array("T H R", ACT)],
    positions: Annotated[Tensor, Array("T", I32)],
    table: Annotated[Weight, Array("P R", F32)],
    interleaved: bool,
) -> Annotated[Tensor, Array("T H R", ACT)]:
    """x [T, H, R] turned to `positions` [T]; same shape and element order.

    `x` may be a strided view whose last dimension is contiguous. Source: Su et al. 2021; GLM-5
    rotates interleaved pairs, in the attention and in the indexer.
    """
    cos, sin = table.tensor[positions.long()].double().unsqueeze(1).chunk(2, dim=-1)
    wide = x.double()
    if interleaved:
        a, b = wide[..., 0::2], wide[..., 1::2]
        turned = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    else:
        a, b = wide.chunk(2, dim=-1)
        turned = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    return turned.to(x.dtype)


@rope.exact(
    requirements={
        "ROPE-EXACT-1": "(write(a' cos' - b' sin'), write(b' cos' + a' sin')) with primes for "
        "read(): two products, each rounded, then their difference or sum, rounded.",
    }
)
def fixed_point(x: Tensor, positions: Tensor, table: Weight, interleaved: bool) -> Tensor:
    """Three float32 operations per element."""
    cos, sin = read(table.tensor[positions.long()]).unsqueeze(1).chunk(2, dim=-1)
    wide = read(x)
    a, b = (wide[..., 0::2], wide[..., 1::2]) if interleaved else wide.chunk(2, dim=-1)
    turned = (a * cos - b * sin, b * cos + a * sin)
    joined = torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)
    return write(joined, x.dtype)
