"""Choosing the next token."""

from __future__ import annotations

from glm5_hal.exact import READ
from glm5_hal.kernels.onnx.builder import F64, I32, I64, Value, least, where
from glm5_hal.kernels.onnx.entry import Call, builds
from glm5_hal.kernels.onnx.exact import exp
from glm5_hal.kernels.onnx.select import order_key
from glm5_hal.ops.sample import DRAW_BITS

_END = 1 << 31
_INFINITE = float("inf")


@builds("sample")
def _sample(call: Call) -> tuple[Value, ...]:
    logits, temperature, top_p = (call.tensor(n) for n in ("logits", "temperature", "top_p"))
    draws = call.int32("draws").unsqueeze(1)
    _, greedy = order_key(logits).top(call.graph.integers(1))
    hot = (temperature >= READ if call.exact else temperature > 0.0).unsqueeze(1)
    if call.exact:
        hot = hot & (temperature < _INFINITE).unsqueeze(1)
        drawable = ~(~(logits < _INFINITE)).any(1, keep=True)
        hot = hot & drawable & (logits > -_INFINITE).any(1, keep=True)
    heat = where(hot, temperature.unsqueeze(1), 1.0)
    drawn = (_exact if call.exact else _fast)(
        where(hot, logits, 0.0), heat, top_p.unsqueeze(1), draws
    )
    return (where(hot, drawn, greedy).squeeze(1).to(I32),)


def _exact(logits: Value, heat: Value, top_p: Value, draws: Value) -> Value:
    """Integer weights, summed and compared exactly: ids [T, 1]."""
    weights = exp((logits - logits.max(1, keep=True)) / heat)
    weights = (weights * float(1 << DRAW_BITS)).round().to(I64)
    weights, order = weights.top(weights.size(1))
    mass = weights.running_sum(1)
    # a limit of twice the whole mass keeps all that any larger one keeps
    limit = (top_p * float(1 << DRAW_BITS)).round().clip(0.0, float(2 << DRAW_BITS)).to(I64)
    first = _portion(mass.slice(-1, _END, 1), limit, DRAW_BITS, round_up=True)
    count = ((mass - weights) < first).to(I64).sum(1, keep=True)
    kept = mass.gather_elements(where(count > 0, count - 1, 0), 1)
    target = _portion(kept, draws * 2 + 1, DRAW_BITS + 1)
    return order.gather_elements((mass <= target).to(I64).sum(1, keep=True), 1)


def _portion(mass: Value, factor: Value, bits: int, *, round_up: bool = False) -> Value:
    """mass * factor / 2^bits, rounded down or up; in two parts, as the product may pass 2^63."""
    unit = 1 << bits
    high = mass / unit
    low = (mass - high * unit) * factor
    return high * factor + (low + (unit - 1) if round_up else low) / unit


def _fast(logits: Value, heat: Value, top_p: Value, draws: Value) -> Value:
    """The same in float64: ids [T, 1]."""
    columns = logits.size(1)
    chance, order = (logits.to(F64) / heat.to(F64)).softmax().top(columns)
    before = chance.running_sum(1) - chance
    place = logits.graph.positions(columns.squeeze(0)).unsqueeze(0)
    kept = where((before < top_p.to(F64)) | place.equals(0), chance, 0.0)
    mass = kept.running_sum(1)
    share = (draws.to(F64) + 0.5) * 2.0**-DRAW_BITS
    passed = mass <= share * mass.slice(-1, _END, 1)
    chosen = least(passed.to(I64).sum(1, keep=True), columns - 1)
    return order.gather_elements(chosen, 1)
