"""Attention over latent rows: integer maxima first, then sums of integers."""

import numpy as np
from torch import Tensor

from glm5_hal import Cache, PagedContext
from glm5_hal.backends.cpu_limbs import fixing, floats, integers
from glm5_hal.backends.cpu_limbs.arrays import Float, Int, floats_of, tensor_of
from glm5_hal.backends.cpu_limbs.fixing import ACTIVATION_DIGITS, Fixed
from glm5_hal.backends.cpu_limbs.floats import ONE, write
from glm5_hal.backends.cpu_limbs.linear import weight_digits

_LOG2_E = float.fromhex("0x1.71547652b82fep+0")
_CLAMP = np.float32(2.0**20)
_MASS_PLACES = 23
_WEIGHT_PLACES = 21


def latent_attention(
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Cache,
    context: PagedContext,
    scale: float,
    indices: Tensor | None,
) -> Tensor:
    """Weighted sums of latent rows, [T, H, C]; one token at a time."""
    factor = np.float32(scale * _LOG2_E)
    out = q_latent.new_zeros(q_latent.shape)
    for token in range(q_latent.shape[0]):
        rows = cache.tensor[context.slots(token, cache.page_size, indices)]
        if rows.shape[0]:
            out[token] = _attend(q_latent[token], q_rope[token], rows, factor)
    return out


def _attend(q_latent: Tensor, q_rope: Tensor, rows: Tensor, factor: np.float32) -> Tensor:
    """One token's [H, C] of queries [H, C] and [H, R] and the rows [S, C + R] that it sees."""
    latent, digits = q_latent.shape[-1], weight_digits(rows.dtype)
    content = fixing.fix(floats_of(rows[:, :latent]), digits)
    turned = fixing.fix(floats_of(rows[:, latent:]), digits)
    scores = _product(q_latent, content) + _product(q_rope, turned)  # [H, S]
    known = floats.is_finite(scores)
    scaled = np.where(known, scores, np.float32(0)) * factor
    power = np.clip(scaled, -_CLAMP, _CLAMP)
    whole, place = floats.whole_part(power)
    value = _average(floats.exp2_fraction(power - whole), place, content)
    return tensor_of(
        floats.nan_unless(np.all(known, axis=-1, keepdims=True), value), q_latent.dtype
    )


def _product(query: Tensor, rows: Fixed) -> Float:
    return fixing.product(fixing.fix(floats_of(query), ACTIVATION_DIGITS), rows)


def _average(part: Float, place: Int, content: Fixed) -> Float:
    """Rows [S, C] weighted with part * 2^place [H, S], over the sum of the weights: [H, C].

    The weights are taken relative to the largest, once with and once without the rows' exponents.
    """
    lifted = place + content.exponent
    top, top_lifted = (p.max(-1, keepdims=True) for p in (place, lifted))
    mass = integers.total(floats.to_integer(part, place - top + _MASS_PLACES))
    weights = floats.to_integer(part, lifted - top_lifted + _WEIGHT_PLACES)
    columns = content.digits.swapaxes(-1, -2)  # [digits, C, S]
    sums = floats.nearest(fixing.sums(fixing.cut(weights, ACTIVATION_DIGITS), columns))
    value = sums * floats.divide(ONE, floats.nearest(mass))[:, None]
    return write(floats.scaled(value, top_lifted - top + np.int32(2 - content.places)))
