"""Matrix products of rows with rows of weights, one matrix a group.

Groups are the heads of a per-head weight, the matrices of a batch, or the experts of rows that
stand in expert order. Row r of group g is row ``r * step + g * lead`` of the operand and of the
result. In the exact profile any order and any tile gives the same integers. In the fast profile
the sum over k runs in blocks of one size, in order.
"""

import triton
import triton.language as tl
from torch import Tensor

from glm5_hal.exact import check_length
from glm5_hal.kernels.triton.fixing import Digits, add_products, valued
from glm5_hal.kernels.triton.floats import narrow, widen
from glm5_hal.kernels.triton.target import Target, padded, tiles_of
from glm5_hal.kernels.triton.wide import added, joined

SEGMENT = tl.constexpr(32768)
"""Products that int32 holds: three pairs of digits in one sum, 3 * 2^14 * 2^15 < 2^31."""


@triton.jit
def digit_sums(
    x_at,
    w_at,
    x_mask,
    w_mask,
    begin,
    end,
    x_plane,
    w_plane,
    digits: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    depth: tl.constexpr,
):
    """Exact sums over k in [begin, end) of digit rows at two sets of pointers: two limbs."""
    s0 = tl.zeros([rows, columns], tl.int32)
    s1 = tl.zeros([rows, columns], tl.int32)
    s2 = tl.zeros([rows, columns], tl.int32)
    s3 = tl.zeros([rows, columns], tl.int32)
    s4 = tl.zeros([rows, columns], tl.int32)
    for k in range(begin, end, depth):
        place = k + tl.arange(0, depth)
        inside = place < end
        xs = x_at[:, None] + place[None, :]
        ws = w_at[None, :] + place[:, None]
        x_in = x_mask[:, None] & inside[None, :]
        w_in = w_mask[None, :] & inside[:, None]
        a0 = tl.load(xs, mask=x_in, other=0)
        a1 = tl.load(xs + x_plane, mask=x_in, other=0)
        a2 = tl.load(xs + 2 * x_plane, mask=x_in, other=0)
        b0 = tl.load(ws, mask=w_in, other=0)
        b1 = tl.load(ws + w_plane, mask=w_in, other=0)
        b2 = b0
        if digits == 3:
            b2 = tl.load(ws + 2 * w_plane, mask=w_in, other=0)
        s0, s1, s2, s3, s4 = add_products(a0, a1, a2, b0, b1, b2, s0, s1, s2, s3, s4, digits)
    return joined(s0, s1, s2, s3, s4)


@triton.jit
def exact_sums(
    x_at,
    w_at,
    x_mask,
    w_mask,
    length,
    x_plane,
    w_plane,
    digits: tl.constexpr,
    long: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    depth: tl.constexpr,
):
    """Exact sums over all k: in segments that int32 holds where the rows are longer than one."""
    if long:
        high = tl.zeros([rows, columns], tl.int32)
        low = tl.zeros([rows, columns], tl.int32)
        for begin in range(0, length, SEGMENT):
            end = tl.minimum(begin + SEGMENT, length)
            more_high, more_low = digit_sums(
                x_at,
                w_at,
                x_mask,
                w_mask,
                begin,
                end,
                x_plane,
                w_plane,
                digits,
                rows,
                columns,
                depth,
            )
            high, low = added(high, low, more_high, more_low)
    else:
        high, low = digit_sums(
            x_at,
            w_at,
            x_mask,
            w_mask,
            0,
            length,
            x_plane,
            w_plane,
            digits,
            rows,
            columns,
            depth,
        )
    return high, low


@triton.jit
def find_group(tile, offsets, groups, rows: tl.constexpr, padded_groups: tl.constexpr):
    """(group, first row, end) of the tile-th tile, where each group has tiles of its own."""
    group = tl.arange(0, padded_groups)
    known = group < groups
    begin = tl.load(offsets + group, mask=known, other=0)
    end = tl.load(offsets + group + 1, mask=known, other=0)
    tiles = (end - begin + rows - 1) // rows
    last = tl.cumsum(tiles, 0)
    mine = tl.sum(tl.where((last <= tile) & known, 1, 0), 0)
    at = tl.minimum(mine, groups - 1)
    start = tl.load(offsets + at)
    before = tl.sum(tl.where(group == at, last - tiles, 0), 0)
    stop = tl.load(offsets + at + 1)
    return at, start + (tile - before) * rows, tl.where(mine < groups, stop, 0)


@triton.jit
def exact_kernel(
    first,
    x,
    x_exponents,
    w,
    w_exponents,
    out,
    offsets,
    count,
    width,
    length,
    groups,
    step,
    lead,
    x_plane,
    w_plane,
    tiles,
    grouped: tl.constexpr,
    padded_groups: tl.constexpr,
    digits: tl.constexpr,
    long: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    depth: tl.constexpr,
):
    """Values [.., width] of digit rows x and weights w [groups, width, length]."""
    program = tl.program_id(0) + first
    tile = program % tiles
    if grouped:
        across = program // tiles
        group, begin, end = find_group(tile, offsets, groups, rows, padded_groups)
        row = begin + tl.arange(0, rows)
        x_mask = row < end
    else:
        across = (program // tiles) // groups
        group = (program // tiles) % groups
        row = tile * rows + tl.arange(0, rows)
        x_mask = row < count
    row = row * step + group * lead
    column = across * columns + tl.arange(0, columns)
    w_mask = column < width
    w_row = group * width + column
    high, low = exact_sums(
        x + row.to(tl.int64) * length,
        w + w_row.to(tl.int64) * length,
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
    x_exponent = tl.load(x_exponents + row, mask=x_mask, other=0)
    w_exponent = tl.load(w_exponents + w_row, mask=w_mask, other=0)
    value = valued(high, low, x_exponent[:, None], w_exponent[None, :], digits)
    at = row.to(tl.int64)[:, None] * width + column[None, :]
    value = narrow(value, out.dtype.element_ty)
    tl.store(out + at, value, mask=x_mask[:, None] & w_mask[None, :])


@triton.jit
def fast_kernel(
    first,
    x,
    w,
    out,
    offsets,
    count,
    width,
    length,
    groups,
    step,
    lead,
    tiles,
    grouped: tl.constexpr,
    padded_groups: tl.constexpr,
    wide: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    depth: tl.constexpr,
):
    """Values [.., width] of rows x and weights w [groups, width, length], float32 inside."""
    program = tl.program_id(0) + first
    tile = program % tiles
    if grouped:
        across = program // tiles
        group, begin, end = find_group(tile, offsets, groups, rows, padded_groups)
        row = begin + tl.arange(0, rows)
        x_mask = row < end
    else:
        across = (program // tiles) // groups
        group = (program // tiles) % groups
        row = tile * rows + tl.arange(0, rows)
        x_mask = row < count
    row = row * step + group * lead
    column = across * columns + tl.arange(0, columns)
    w_mask = column < width
    x_at = x + row.to(tl.int64)[:, None] * length
    w_at = w + (group * width + column).to(tl.int64)[None, :] * length
    total = tl.zeros([rows, columns], tl.float32)
    for k in range(0, length, depth):
        place = k + tl.arange(0, depth)
        inside = place < length
        a = tl.load(x_at + place[None, :], mask=x_mask[:, None] & inside[None, :], other=0.0)
        b = tl.load(w_at + place[:, None], mask=w_mask[None, :] & inside[:, None], other=0.0)
        if wide:
            a = widen(a)
            b = widen(b)
        total = tl.dot(a, b, total, input_precision="ieee", out_dtype=tl.float32)
    at = row.to(tl.int64)[:, None] * width + column[None, :]
    value = narrow(total, out.dtype.element_ty)
    tl.store(out + at, value, mask=x_mask[:, None] & w_mask[None, :])


def _tiles(rows: int, tile: int, offsets: Tensor | None, groups: int) -> int:
    """Tiles that cover the rows of a group; of all groups, whatever their sizes, with offsets."""
    if offsets is None:
        return tiles_of(rows, tile)
    return rows // tile + min(groups, rows)


def exact(
    x: Digits,
    w: Digits,
    out: Tensor,
    target: Target,
    *,
    groups: int = 1,
    step: int = 1,
    lead: int = 0,
    offsets: Tensor | None = None,
) -> Tensor:
    """Fill `out` with exact products, rounded once.

    Args:
        x: rows of all groups.
        w: [groups * N] rows of K.
        out: as many rows as x, of N.
        target: the chip.
        groups: number of matrices.
        step: distance of the rows of a group.
        lead: distance of the groups' first rows.
        offsets: [groups + 1] int32, first rows of the groups where rows stand in their order.
    """
    _, total, length = x.planes.shape
    check_length(length)
    width = out.shape[-1]
    count = total if offsets is not None else total // groups
    small = count <= target.tile("exact_small").sizes["rows"]
    name = "exact_small" if small else "exact_product"
    tile = target.tile(name)
    tiles = _tiles(count, tile.sizes["rows"], offsets, groups)
    programs = tiles * tiles_of(width, tile.sizes["columns"])
    programs *= 1 if offsets is not None else groups
    arguments = (
        *(x.planes, x.exponents, w.planes, w.exponents, out),
        *(out if offsets is None else offsets, count, width, length, groups, step, lead),
        *(x.planes.stride(0), w.planes.stride(0), tiles),
    )
    constants = {
        "grouped": offsets is not None,
        "padded_groups": padded(groups),
        "digits": w.digits,
        "long": length > SEGMENT.value,
        "depth": tile.fitted("depth", length, least=32),
    }
    target.launch(exact_kernel, programs, *arguments, tile=name, **constants)
    return out


def fast(
    x: Tensor,
    w: Tensor,
    out: Tensor,
    target: Target,
    *,
    groups: int = 1,
    step: int = 1,
    lead: int = 0,
    offsets: Tensor | None = None,
) -> Tensor:
    """Fill `out` with products accumulated in float32, rounded once; arguments as `exact`."""
    total, length = x.shape
    width = out.shape[-1]
    count = total if offsets is not None else total // groups
    sizes = target.tile("fast_product").sizes
    tiles = _tiles(count, sizes["rows"], offsets, groups)
    programs = tiles * tiles_of(width, sizes["columns"])
    programs *= 1 if offsets is not None else groups
    arguments = (
        *(x, w, out, out if offsets is None else offsets),
        *(count, width, length, groups, step, lead, tiles),
    )
    constants = {
        "grouped": offsets is not None,
        "padded_groups": padded(groups),
        "wide": x.dtype != w.dtype or target.widens(x.dtype),
    }
    target.launch(fast_kernel, programs, *arguments, tile="fast_product", **constants)
    return out
