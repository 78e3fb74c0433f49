"""Newton-Schulz orthogonalisation of a batch of matrices."""

from __future__ import annotations

from glm5_hal.exact import ACTIVATION_DIGITS
from glm5_hal.kernels.onnx.builder import F32, I64, Value, where
from glm5_hal.kernels.onnx.entry import Call, builds
from glm5_hal.kernels.onnx.exact import (
    BITS,
    NAN,
    SMALLEST,
    Columns,
    contract,
    fixed,
    read,
    rounded,
    scale,
    square_sum,
    write,
)
from glm5_hal.ops.muon_orthogonalize import COEFFICIENTS


@builds("muon_orthogonalize")
def _muon_orthogonalize(call: Call) -> tuple[Value, ...]:
    g, tall, steps = call.tensor("g"), call.option("tall"), call.option("steps")
    wide = g.to(F32)
    x = (_exact if call.exact else _fast)(_turned(wide) if tall else wide, steps)
    result = _turned(x) if tall else x
    return (write(result, g.dtype) if call.exact else result.to(g.dtype),)


def _turned(x: Value) -> Value:
    return x.transpose(0, 2, 1)


def _fast(x: Value, steps: int) -> Value:
    a, b, c = COEFFICIENTS
    # squares of what is at most 1 do not overflow; zeros stay zeros
    x = x / _or_one(x.abs().max(1, 2, keep=True))
    x = x / _or_one((x * x).sum(1, 2, keep=True).sqrt())
    for _ in range(steps):
        gram = x @ _turned(x)
        x = x * a + (gram * b + (gram * c) @ gram) @ x
    return x


def _or_one(x: Value) -> Value:
    return where(x.equals(0.0), 1.0, x)


def _exact(g: Value, steps: int) -> Value:
    a, b, c = COEFFICIENTS
    whole = fixed(g, ACTIVATION_DIGITS, axes=(1, 2))
    normal = where(g.abs() < SMALLEST, 0.0, g)
    unit = scale(normal, -whole.exponent.unsqueeze(1, 2))
    rows = fixed(unit, ACTIVATION_DIGITS)
    squares = scale(rounded(square_sum(rows)), (rows.exponent - BITS) * 2)  # [B, m]
    parts = fixed(squares, ACTIVATION_DIGITS)
    total = scale(rounded(parts.integers.to(I64).sum(-1)), parts.exponent - BITS)
    x = read(unit) * (1.0 / total.sqrt()).unsqueeze(1, 2)

    def step(_: Value, x: Value) -> Value:
        gram = _times(x, x)
        mixed = read(gram) * b + read(_times(gram, gram)) * c
        return read(x) * a + _times(mixed, _turned(x))

    # a loop, because compilers take long over five copies of this
    x = g.graph.loop(g.graph.scalar(steps), x, ("B", "rows", "columns"), step)
    zero = whole.integers.abs().max(1, 2, keep=True).equals(0.0)
    return where(whole.finite.unsqueeze(1, 2), where(zero, 0.0, x), NAN)


def _times(x: Value, y: Value) -> Value:
    """Rows of x with rows of y, by exact sums."""
    columns = Columns.of(fixed(y, ACTIVATION_DIGITS), rank=3)
    return contract(fixed(x, ACTIVATION_DIGITS), columns, rank=3)
