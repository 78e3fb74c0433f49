"""Rows and elements: embedding, caches, norms, RoPE, SwiGLU."""

from __future__ import annotations

from glm5_hal.exact import ACTIVATION_DIGITS
from glm5_hal.kernels.onnx.builder import F32, F64, I64, Value, concat, where
from glm5_hal.kernels.onnx.entry import Call, builds
from glm5_hal.kernels.onnx.exact import (
    BITS,
    NAN,
    Fixed,
    fixed,
    read,
    rounded,
    scale,
    sigmoid,
    square_sum,
    width,
    write,
)


@builds("embedding")
def _embedding(call: Call) -> tuple[Value, ...]:
    ids = call.tensor("ids")
    return (call.tensor("table").gather(ids),)


@builds("cache_write")
def _cache_write(call: Call) -> tuple[Value, ...]:
    """The whole cache afterwards; a runtime that is given one buffer for both writes in place."""
    cache, rows = call.tensor("cache"), call.tensor("rows")
    slots = call.int32("slots").unsqueeze(1)
    return (call.graph.node("ScatterND", cache, slots, rows),)


@builds("cache_read")
def _cache_read(call: Call) -> tuple[Value, ...]:
    cache = call.tensor("cache")
    return (cache.gather(call.tensor("slots")),)


@builds("rms_norm")
def _rms_norm(call: Call) -> tuple[Value, ...]:
    x, w, eps = call.tensor("x"), call.tensor("w"), call.option("eps")
    h = x
    if not call.exact:
        if call.has("residual"):
            h = (x.to(F32) + call.tensor("residual").to(F32)).to(x.dtype)
        wide = h.to(F32)
        root = ((wide * wide).mean(-1, keep=True) + eps).sqrt()
        return (wide * (1.0 / root) * w).to(x.dtype), h
    if call.has("residual"):
        h = write(read(x) + read(call.tensor("residual")), x.dtype)
    rows = fixed(h, ACTIVATION_DIGITS)
    mean = rounded(square_sum(rows)) / width(h)
    factor = _inverse_deviation(mean, rows, rows.exponent, eps)
    return write((read(h) * factor) * read(w), x.dtype), h


def _inverse_deviation(mean: Value, rows: Fixed, exponent: Value, eps: float) -> Value:
    """1 / sqrt(mean * 2^(2 exponent - 2 bits) + eps) as a column; NaN for rows that are not."""
    square = write(scale(mean, (exponent - rows.bits) * 2))
    value = 1.0 / (square + eps).sqrt()
    return where(rows.finite, value, NAN).unsqueeze(-1)


@builds("layer_norm")
def _layer_norm(call: Call) -> tuple[Value, ...]:
    x, w, b = (call.tensor(name) for name in ("x", "w", "b"))
    eps = call.option("eps")
    if not call.exact:
        # in float64 the mean of a constant row is exact
        wide = x.to(F64)
        centred = wide - wide.mean(-1, keep=True)
        root = ((centred * centred).mean(-1, keep=True) + eps).sqrt()
        return (((centred / root).to(F32) * w + b).to(x.dtype),)
    rows, length = fixed(x, ACTIVATION_DIGITS), width(x).unsqueeze(0)
    whole = rows.integers.to(I64)
    total = whole.sum(-1, keep=True)
    mean = (rounded(total) / length).round().to(I64)
    rest = rounded(total - mean * x.size(-1)) / length
    centred = (whole - mean).to(F32) - rest  # in units of 2^(e - BITS)
    spread = fixed(centred, ACTIVATION_DIGITS)
    variance = rounded(square_sum(spread)) / width(x)
    unit = rows.exponent - BITS
    factor = _inverse_deviation(variance, rows, spread.exponent + unit, eps)
    return (
        write((read(scale(centred, unit.unsqueeze(-1))) * factor) * read(w) + read(b), x.dtype),
    )


@builds("rope")
def _rope(call: Call) -> tuple[Value, ...]:
    x, positions, table = (call.tensor(name) for name in ("x", "positions", "table"))
    enter, leave = (read, write) if call.exact else (_plain, Value.to)
    cos, sin = enter(table.gather(positions)).unsqueeze(1).split(2)  # [T, 1, R / 2]
    wide = enter(x)
    if call.option("interleaved"):
        a, b = (wide.slice(first, 1 << 31, -1, step=2) for first in (0, 1))
    else:
        a, b = wide.split(2)
    turned = (a * cos - b * sin, b * cos + a * sin)
    if call.option("interleaved"):
        return (leave(concat(*(part.unsqueeze(-1) for part in turned), axis=-1).like(x), x.dtype),)
    return (leave(concat(*turned, axis=-1), x.dtype),)


def _plain(x: Value) -> Value:
    return x.to(F32)


@builds("swiglu")
def _swiglu(call: Call) -> tuple[Value, ...]:
    x = call.tensor("gate_up")
    if call.exact:
        gate, up = read(x).split(2)
        return (write((gate * sigmoid(gate)) * up, x.dtype),)
    gate, up = x.to(F32).split(2)
    # not the runtime's Sigmoid: some cut it off below e^-18, which has no correct digit left
    return ((gate / ((-gate).exp() + 1.0) * up).to(x.dtype),)
