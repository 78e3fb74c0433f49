"""Moving rows: bytes, whatever they mean."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm5_hal.kernels.triton.target import Target, tiles_of

_WORD = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int32}
"""Word by bytes of an element: one of eight bytes is two words."""


@triton.jit
def move_kernel(
    first,
    source,
    goal,
    places,
    count,
    width,
    stride,
    shared,
    scatter: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
):
    """Row i of `goal` from row places[i] // shared of `source`; or to row places[i], with scatter.

    `stride` is the distance of the rows of `source`.
    """
    program = tl.program_id(0) + first
    across = tl.cdiv(width, block)
    row = (program // across) * rows + tl.arange(0, rows)
    column = (program % across) * block + tl.arange(0, block)
    mask = (row < count)[:, None] & (column < width)[None, :]
    place = tl.load(places + row, mask=row < count, other=0).to(tl.int64)
    here = row.to(tl.int64)
    if scatter:
        moved = tl.load(source + here[:, None] * stride + column[None, :], mask=mask, other=0)
        tl.store(goal + place[:, None] * width + column[None, :], moved, mask=mask)
    else:
        at = (place // shared)[:, None] * stride
        moved = tl.load(source + at + column[None, :], mask=mask, other=0)
        tl.store(goal + here[:, None] * width + column[None, :], moved, mask=mask)


def _launch(
    source: Tensor, goal: Tensor, places: Tensor, shared: int, scatter: bool, target: Target
) -> None:
    word = _WORD[source.element_size()]
    source, goal = source.view(word), goal.view(word)
    width = source.shape[1]
    tile = target.tile("rows")
    block = tile.fitted("block", width)
    programs = tiles_of(places.shape[0], tile.sizes["rows"]) * tiles_of(width, block)
    arguments = (source, goal, places, places.shape[0], width)
    strides = (source.stride(0), shared)
    constants = {"scatter": scatter, "block": block}
    target.launch(move_kernel, programs, *arguments, *strides, tile="rows", **constants)


def gather(source: Tensor, places: Tensor, target: Target, shared: int = 1) -> Tensor:
    """Rows places[i] // shared of source [N, W]: [places, W]."""
    out = torch.empty(places.shape[0], source.shape[1], dtype=source.dtype, device=source.device)
    _launch(source, out, places, shared, False, target)
    return out


def scatter(rows: Tensor, goal: Tensor, places: Tensor, target: Target) -> None:
    """Row i of rows [n, W] to row places[i] of goal [N, W]."""
    _launch(rows, goal, places, 1, True, target)
