"""Matrix products whose shape never depends on the schedule.

A BLAS chooses its blocking, and with it the order of the sums, by the shape of the whole call:
the same row gives other bits alone than among 64 rows. Here every call has one shape. Rows are
cut into tiles of `ROWS`, the last tile is padded, so a row's bits depend on its own content only.
The number of threads may still change them: for some shapes the library splits sums by it.
"""

import functools

import torch
from torch import Tensor

ROWS = 32
"""Rows a tile. Decode pays for 32 rows where it has one, which a CPU hides behind reading the
weights; prefill pays 1.5 to 3.5 times the time of one large call."""

BLOCK = 32
"""Terms that the bfloat16 kernels take at a time."""

UPCAST_COLUMNS = 4096
"""Weight rows converted to float32 at a time where the product is wanted in float32."""


def matmul(x: Tensor, w: Tensor, out_dtype: torch.dtype) -> Tensor:
    """``x @ w.T`` for x [T, K] and w [N, K], in the wider of the two dtypes and `out_dtype`."""
    compute = _compute_dtype(x.shape[1], x.dtype, w.dtype, out_dtype)
    out = torch.empty(x.shape[0], w.shape[0], dtype=out_dtype)
    if w.dtype == compute:
        _tiled(x.to(compute), w, out)
    else:
        wide = x.to(compute)
        for start in range(0, w.shape[0], UPCAST_COLUMNS):
            stop = start + UPCAST_COLUMNS
            _tiled(wide, w[start:stop].to(compute), out[:, start:stop])
    return out


def _tiled(x: Tensor, w: Tensor, out: Tensor) -> None:
    """Fill `out` [T, N] tile by tile."""
    for start in range(0, x.shape[0], ROWS):
        tile = padded(x[start : start + ROWS], ROWS)
        out[start : start + ROWS] = (tile @ w.T)[: x.shape[0] - start]


def head_matmul(x: Tensor, w: Tensor) -> Tensor:
    """Per-head ``x[:, h] @ w[h].T`` for x [T, H, K] and w [H, N, K]: [T, H, N]."""
    compute = _compute_dtype(x.shape[2], x.dtype, w.dtype)
    out = x.new_empty(*x.shape[:2], w.shape[1])
    x, columns = x.to(compute), w.to(compute).mT
    for start in range(0, x.shape[0], ROWS):
        tile = padded(x[start : start + ROWS], ROWS).transpose(0, 1)  # [H, ROWS, K]
        product = torch.bmm(tile, columns).transpose(0, 1)
        out[start : start + ROWS] = product[: x.shape[0] - start]
    return out


def each_matmul(x: Tensor, y: Tensor) -> Tensor:
    """``x[q] @ y[q]`` for x [Q, M, K] and y [Q, K, N], one call a q: [Q, M, N].

    A batched product has other bits for one q than for several where there are threads.
    """
    out = x.new_empty(x.shape[0], x.shape[1], y.shape[2])
    for q in range(x.shape[0]):
        torch.mm(x[q], y[q], out=out[q])
    return out


def _compute_dtype(width: int, *dtypes: torch.dtype) -> torch.dtype:
    """The widest of `dtypes`, but bfloat16 only for sums over whole blocks of `BLOCK`.

    Of other widths the library's bfloat16 kernels multiply what lies behind a row by zero: the
    NaN of a neighbour comes through.
    """
    widest = functools.reduce(torch.promote_types, dtypes)
    return torch.float32 if width % BLOCK else widest


def padded(x: Tensor, rows: int) -> Tensor:
    """`x` contiguous, with zero rows appended up to `rows`."""
    if x.shape[0] == rows:
        return x.contiguous()
    tile = x.new_zeros(rows, *x.shape[1:])
    tile[: x.shape[0]] = x
    return tile
