"""Small kernels in which a compiler's habits show."""

import triton
import triton.language as tl


@triton.jit
def add(x, y, out, size: tl.constexpr):
    at = tl.arange(0, size)
    tl.store(out + at, tl.load(x + at) + tl.load(y + at))


@triton.jit
def scale(x, out, size: tl.constexpr):
    at = tl.arange(0, size)
    tl.store(out + at, tl.load(x + at) * 0.5)


@triton.jit
def divide(x, out, size: tl.constexpr):
    at = tl.arange(0, size)
    tl.store(out + at, tl.load(x + at) / 3.3)


@triton.jit
def divide_rn(x, out, size: tl.constexpr):
    at = tl.arange(0, size)
    value = tl.load(x + at)
    tl.store(out + at, tl.math.div_rn(value, tl.zeros_like(value) + 3.3))


@triton.jit
def exponential(x, out, size: tl.constexpr):
    at = tl.arange(0, size)
    tl.store(out + at, tl.exp(tl.load(x + at)))


@triton.jit
def multiply_add(x, y, out, size: tl.constexpr):
    at = tl.arange(0, size)
    value = tl.load(x + at)
    tl.store(out + at, value * tl.load(y + at) + value)


@triton.jit
def through_float64(x, out, size: tl.constexpr):
    at = tl.arange(0, size)
    wide = tl.load(x + at).to(tl.float64)
    tl.store(out + at, ((wide + 4096.0) - 4096.0).to(tl.float32))


@triton.jit
def through_int64(x, out, size: tl.constexpr):
    at = tl.arange(0, size)
    whole = (tl.load(x + at) * 1024.0).to(tl.int32).to(tl.int64)
    tl.store(out + at, ((whole << 28) >> 28).to(tl.float32))


@triton.jit
def dot(x, y, out, m: tl.constexpr, k: tl.constexpr, n: tl.constexpr, precision: tl.constexpr):
    i, j, d = tl.arange(0, m), tl.arange(0, n), tl.arange(0, k)
    a = tl.load(x + i[:, None] * k + d[None, :])
    b = tl.load(y + d[:, None] * n + j[None, :])
    made = tl.dot(a, b, input_precision=precision, out_dtype=out.dtype.element_ty)
    tl.store(out + i[:, None] * n + j[None, :], made)


@triton.jit
def atomic_sum(x, out):
    tl.atomic_add(out, tl.load(x + tl.program_id(0)))


@triton.jit
def far(x, distance):
    tl.store(x, tl.load(x + distance))


@triton.jit
def running_sums(x, out, rows, width, turns, size: tl.constexpr):
    """Row r of out: the sums of as many parts of row r of x as turns say; odd rows doubled."""
    row, at = tl.program_id(0), tl.arange(0, size)
    total = tl.zeros((size,), tl.float32)
    for turn in range(turns):
        column = turn * size + at
        total += tl.load(x + row * width + column, mask=column < width, other=0.0)
    if turns > 1:
        total = total * 0.5
    if row % 2 == 1:
        total = total * 2.0
    tl.store(out + row * size + at, total, mask=row < rows)
