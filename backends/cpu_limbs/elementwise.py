"""Rotary embedding, SwiGLU and the two norms."""

import numpy as np
from torch import Tensor

from glm5_hal import Weight
from glm5_hal.backends.cpu_limbs import fixing, floats, integers
from glm5_hal.backends.cpu_limbs.arrays import Bool, Float, Int, floats_of, tensor_of, vector_of
from glm5_hal.backends.cpu_limbs.fixing import ACTIVATION_DIGITS
from glm5_hal.backends.cpu_limbs.floats import ONE, read, write

_PLACES = fixing.places(ACTIVATION_DIGITS)


def rope(x: Tensor, rows: Tensor, interleaved: bool) -> Tensor:
    """x [T, H, R] turned by its tokens' rows of the table, [T, R] float32."""
    cosine, sine = np.split(read(floats_of(rows))[:, None, :], 2, axis=-1)
    wide = read(floats_of(x))
    if interleaved:
        a, b = wide[..., 0::2], wide[..., 1::2]
    else:
        a, b = np.split(wide, 2, axis=-1)
    turned = (a * cosine - b * sine, b * cosine + a * sine)
    if interleaved:
        return tensor_of(write(np.stack(turned, axis=-1).reshape(wide.shape)), x.dtype)
    return tensor_of(write(np.concatenate(turned, axis=-1)), x.dtype)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up for [T, 2 I]: [T, I]."""
    gate, up = np.split(read(floats_of(gate_up)), 2, axis=-1)
    return tensor_of(write((gate * floats.sigmoid(gate)) * up), gate_up.dtype)


def rms_norm(x: Tensor, w: Weight, eps: float, residual: Tensor | None) -> tuple[Tensor, Tensor]:
    """(y, h), each [T, D]."""
    h = x.clone() if residual is None else _sum(x, residual)
    values = floats_of(h)
    numbers, exponent, finite = _whole_rows(values)
    mean = _mean_square(numbers)
    scale = _inverse_deviation(mean, 2 * (exponent - _PLACES), finite, eps)
    return tensor_of(write((read(values) * scale) * read(vector_of(w))), x.dtype), h


def layer_norm(x: Tensor, w: Weight, b: Weight, eps: float) -> Tensor:
    """Normalised rows [T, D]: mean and variance of the fixed rows."""
    numbers, exponent, finite = _whole_rows(floats_of(x))
    centred = _centred(numbers)
    spread, own, _ = _whole_rows(centred)
    variance = _mean_square(spread)
    scale = _inverse_deviation(variance, 2 * (own + exponent - 2 * _PLACES), finite, eps)
    value = read(floats.scaled(centred, (exponent - _PLACES)[:, None]))
    return tensor_of(write((value * scale) * read(vector_of(w)) + read(vector_of(b))), x.dtype)


def _sum(x: Tensor, residual: Tensor) -> Tensor:
    return tensor_of(write(read(floats_of(x)) + read(floats_of(residual))), x.dtype)


def _whole_rows(x: Float) -> tuple[Int, Int, Bool]:
    """Rows [T, D] as (integers [T, D], exponents [T], finite [T])."""
    bits = x.view(np.int32)
    exponent, finite = fixing.exponents(bits)
    return fixing.whole_numbers(bits, exponent, finite, ACTIVATION_DIGITS), exponent, finite


def _mean_square(numbers: Int) -> Float:
    """The sum of squares of each row of [T, D], rounded, over D, rounded: [T]."""
    squares = fixing.square_sums(fixing.cut(numbers, ACTIVATION_DIGITS))
    return floats.divide(floats.nearest(squares), np.float32(numbers.shape[-1]))


def _centred(numbers: Int) -> Float:
    """Rows [T, D] less their mean, as float32 in the same unit."""
    length = numbers.shape[-1]
    total = floats.nearest(integers.total(numbers))
    _, mean = floats.whole_part(floats.divide(total, np.float32(length)))
    # int32 may wrap in both terms; what is left is about D / 2 at most, and comes out right
    left = numbers.sum(-1, dtype=np.int32) - mean * np.int32(length)
    rest = floats.divide(left.astype(np.float32), np.float32(length))
    return (numbers - mean[:, None]).astype(np.float32) - rest[:, None]


def _inverse_deviation(mean: Float, exponent: Int, finite: Bool, eps: float) -> Float:
    """1 / root(mean * 2^exponent + eps) of each row, [T, 1]; NaN for rows that are not finite."""
    square = write(floats.scaled(mean, exponent)) + np.float32(eps)
    value = floats.divide(ONE, floats.square_root(square))
    return floats.nan_unless(finite, value)[:, None]
