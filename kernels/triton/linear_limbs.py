"""One rank's share of a row-parallel linear, as three int32 limbs of 24 bits."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm5_hal.exact import ACTIVATION_DIGITS
from glm5_hal.kernels.triton.fixing import Digits, cut
from glm5_hal.kernels.triton.products import SEGMENT, exact_sums
from glm5_hal.kernels.triton.target import Target, tiles_of


@triton.jit
def limbs_kernel(
    first,
    x,
    w,
    out,
    count,
    width,
    length,
    x_plane,
    w_plane,
    tiles,
    digits: tl.constexpr,
    long: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    depth: tl.constexpr,
):
    """Exact sums of rows x [count, length] and w [width, length] as limbs [count, width, 3]."""
    program = tl.program_id(0) + first
    row = (program % tiles) * rows + tl.arange(0, rows)
    column = (program // tiles) * columns + tl.arange(0, columns)
    x_mask = row < count
    w_mask = column < width
    high, low = exact_sums(
        x + row.to(tl.int64) * length,
        w + column.to(tl.int64) * length,
        x_mask,
        w_mask,
        length,
        x_plane,
        w_plane,
        digits,
        long,
        rows,
        columns,
        depth,
    )
    at = out + 3 * (row.to(tl.int64)[:, None] * width + column[None, :])
    mask = x_mask[:, None] & w_mask[None, :]
    tl.store(at, low & 0xFFFFFF, mask=mask)
    tl.store(at + 1, (low >> 24) | ((high & 0x3FFFF) << 6), mask=mask)
    tl.store(at + 2, high >> 18, mask=mask)


def exact(x: Tensor, w: Digits, exponents: Tensor, target: Target) -> Tensor:
    """Limbs [T, N, 3] of rows x [T, K], cut with the whole rows' exponents, and w [N, K]."""
    rows = cut(x, target, ACTIVATION_DIGITS, exponents)
    _, width, length = w.planes.shape
    out = torch.empty(x.shape[0], width, 3, dtype=torch.int32, device=x.device)
    tile = target.tile("exact_product")
    tiles = tiles_of(x.shape[0], tile.sizes["rows"])
    target.launch(
        limbs_kernel,
        tiles * tiles_of(width, tile.sizes["columns"]),
        *(rows.planes, w.planes, out, x.shape[0], width, length),
        *(rows.planes.stride(0), w.planes.stride(0), tiles),
        tile="exact_product",
        digits=w.digits,
        long=length > SEGMENT.value,
        depth=tile.fitted("depth", length, least=32),
    )
    return out
