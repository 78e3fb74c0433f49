"""The lightning indexer's scores, top-k, and the total order behind every choice."""

from __future__ import annotations

from glm5_hal.exact import ACTIVATION_DIGITS, digits_of
from glm5_hal.kernels.onnx.builder import (
    F32,
    F64,
    I32,
    I64,
    Value,
    concat,
    least,
    where,
)
from glm5_hal.kernels.onnx.entry import Call, builds
from glm5_hal.kernels.onnx.exact import Columns, contract, fixed, read, write
from glm5_hal.kernels.onnx.paged import visible

_INFINITE = 2.0**200
_NAN_KEY = 2.0**201
ABSENT = -(2.0**201)
"""Key below every other."""
_NOWHERE = 1 << 40
"""Index above every other."""


def order_key(x: Value) -> Value:
    """float64 keys that order float32 values as TOPK-4 says.

    The wider range has room for NaN above +Inf, and for `ABSENT` below -Inf; comparisons take -0
    for +0.
    """
    return where(x.isnan(), _NAN_KEY, x.to(F64).clip(-_INFINITE, _INFINITE))


def best(x: Value, k: int) -> Value:
    """Columns of the k largest along the last axis, ties to the lowest, ascending: int64."""
    count = x.graph.integers(k)
    _, chosen = order_key(x).top(count)
    ascending, _ = chosen.top(count, largest=False)
    return ascending


@builds("topk")
def _topk(call: Call) -> tuple[Value, ...]:
    scores, lengths, graph = call.tensor("scores"), call.int32("lengths"), call.graph
    columns = scores.size(1)
    valid = graph.positions(columns.squeeze(0)).unsqueeze(0) < lengths.unsqueeze(1)
    wanted = graph.integers(call.option("k"))
    count = least(wanted, columns)
    keys, chosen = where(valid, order_key(scores), ABSENT).top(count)
    chosen = where(keys > ABSENT, chosen, _NOWHERE)
    ascending, _ = chosen.top(count, largest=False)
    found = where(ascending < _NOWHERE, ascending, -1)
    padding = graph.zeros(I64, scores.size(0), wanted - count) - 1
    return (concat(found, padding, axis=1).to(I32),)


@builds("index_scores")
def _index_scores(call: Call) -> tuple[Value, ...]:
    q, w, scale = call.tensor("q"), call.tensor("w"), call.option("scale")
    found = visible(call, "keys")
    if call.exact:
        keys = Columns.of(fixed(found.rows, digits_of(call.signature.dtype("keys"))), 3)
        dots = read(_positive(contract(fixed(q, ACTIVATION_DIGITS), keys, 3)))  # [T, H, S]
        total = write(_chain(dots, read(read(w) * scale), call.option("H")))
    else:
        dots = _positive(q.to(F32) @ found.rows.to(F32).transpose(0, 2, 1))
        total = ((w * scale).unsqueeze(1) @ dots).squeeze(1)
        total = where(total.equals(0.0), 0.0, total)  # sums of negative zeros
    return (where(found.seen, total, -float("inf")),)


def _positive(x: Value) -> Value:
    """0 for what is negative; NaN stays, which `Relu` and `Max` do not promise."""
    return where(x < 0.0, 0.0, x)


def _chain(dots: Value, weight: Value, heads: int) -> Value:
    """Products of dots [T, H, S] and weights [T, H], added in head order: [T, S]."""
    terms = [dots.gather(h, 1) * weight.gather(h, 1).unsqueeze(1) for h in range(heads)]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
