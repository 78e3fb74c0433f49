"""Attention over latent rows, in two passes without rescaling in the exact profile."""

from __future__ import annotations

from glm5_hal.exact import ACTIVATION_DIGITS, digits_of
from glm5_hal.kernels.onnx.builder import F32, I64, Value, where
from glm5_hal.kernels.onnx.entry import Call, builds
from glm5_hal.kernels.onnx.exact import (
    LARGEST,
    NAN,
    Columns,
    Fixed,
    contract,
    exp2_fraction,
    fixed,
    paired,
    power,
    rounded,
    scale,
    write,
)
from glm5_hal.kernels.onnx.paged import Visible, visible
from glm5_hal.ops.latent_attention import CLAMP, LOG2_E

_NEVER = -(1 << 40)
"""Below every exponent."""
_END = 1 << 31


@builds("latent_attention")
def _latent_attention(call: Call) -> tuple[Value, ...]:
    q_latent, q_rope = call.tensor("q_latent"), call.tensor("q_rope")
    found = visible(call, "cache")
    queries = (q_latent.to(F32), q_rope.to(F32))
    value = (_exact if call.exact else _fast)(call, queries, found)
    nothing = ~found.seen.any(1).unsqueeze(1, 2)
    value = where(nothing, 0.0, value)
    return (write(value, q_latent.dtype) if call.exact else value.to(q_latent.dtype),)


def _fast(call: Call, queries: tuple[Value, Value], found: Visible) -> Value:
    """Softmax attention in float32: [T, H, C]."""
    # an unseen row may hold anything, and 0 * NaN is NaN
    rows = where(found.seen.unsqueeze(2), found.rows.to(F32), 0.0)
    content, turned = _halves(call, rows)
    pairs = zip(queries, (content, turned), strict=True)
    latent, rope = (query @ keys.transpose(0, 2, 1) for query, keys in pairs)
    scores = (latent + rope) * call.option("scale")
    return where(found.seen.unsqueeze(1), scores, -float("inf")).softmax() @ content


def _exact(call: Call, queries: tuple[Value, Value], found: Visible) -> Value:
    """Integer maxima, then integer sums: float32 [T, H, C], not yet written."""
    digits = digits_of(call.signature.dtype("cache"))
    content, turned = (fixed(part, digits) for part in _halves(call, found.rows))
    digits_seen = content.cut()  # [n, T, S, C]
    seen = found.seen.unsqueeze(1)  # [T, 1, S]
    latent, rope = (fixed(query, ACTIVATION_DIGITS) for query in queries)
    keys = Columns(digits_seen.transpose(0, 1, 3, 2), content.exponent, content.finite, digits)
    scores = contract(latent, keys, 3) + contract(rope, Columns.of(turned, 3), 3)  # [T, H, S]

    wrong = ~(scores.abs() <= LARGEST) | ~content.finite.unsqueeze(1)
    finite = ~(wrong & seen).any(-1, keep=True)
    scores = where(scores.isnan(), 0.0, scores * (call.option("scale") * LOG2_E))
    scores = scores.clip(-CLAMP, CLAMP)
    whole = scores.round()
    part = exp2_fraction(scores - whole)
    exponent = whole.to(I64)
    lifted = exponent + content.exponent.unsqueeze(1)
    top, top_lifted = (where(seen, each, _NEVER).max(-1, keep=True) for each in (exponent, lifted))
    mass = where(seen, _scaled(part, exponent - top + 23), 0.0).to(I64).sum(-1, keep=True)
    shares = where(seen, _scaled(part, lifted - top_lifted + 21), 0.0)
    weights = Fixed(shares, top_lifted, finite, ACTIVATION_DIGITS)
    sums = paired(weights, digits_seen, digits, rank=3)
    # the choice keeps an optimiser from making one division of the two operations
    inverse = where(finite, 1.0 / rounded(mass), NAN)
    return scale(rounded(sums) * inverse, top_lifted - top + (2 - content.bits))


def _scaled(part: Value, exponent: Value) -> Value:
    """round(part * 2^exponent) for parts below 2 and exponents up to 23: exact in float32."""
    return (part * power(exponent.clip(-2, 23))).round()


def _halves(call: Call, rows: Value) -> tuple[Value, Value]:
    """Latent and rotated part of cached rows."""
    latent = call.option("C")
    return rows.slice(0, latent, -1), rows.slice(latent, _END, -1)
