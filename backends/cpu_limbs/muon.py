"""Newton-Schulz orthogonalisation on exact products, one matrix at a time."""

import numpy as np
from torch import Tensor

from glm5_hal.backends.cpu_limbs import fixing, floats, integers
from glm5_hal.backends.cpu_limbs.arrays import Float, floats_of, tensor_of
from glm5_hal.backends.cpu_limbs.fixing import ACTIVATION_DIGITS
from glm5_hal.backends.cpu_limbs.floats import ONE, read, write
from glm5_hal.ops.muon_orthogonalize import COEFFICIENTS

_A, _B, _C = (np.float32(value) for value in COEFFICIENTS)
_SMALLEST = np.float32(2.0**-126)
_PLACES = fixing.places(ACTIVATION_DIGITS)


def orthogonalize(g: Tensor, steps: int) -> Tensor:
    """Matrices [B, m, n], each alone."""
    out = g.new_empty(g.shape)
    for index, matrix in enumerate(g):
        out[index] = tensor_of(_one(floats_of(matrix), steps), g.dtype)
    return out


def _one(g: Float, steps: int) -> Float:
    """One matrix [m, n]; what has more rows than columns is turned around first."""
    exponent, finite = fixing.exponents(g.reshape(1, -1).view(np.int32))
    if not finite[0]:
        return np.full_like(g, np.nan)
    if exponent[0] == fixing.SMALLEST_EXPONENT:
        return np.zeros_like(g)
    g = np.where(np.abs(g) < _SMALLEST, np.float32(0), g)
    tall = g.shape[0] > g.shape[1]
    x = _normed(floats.scaled(np.ascontiguousarray(g.T) if tall else g, -exponent))
    for _ in range(steps):
        gram = _times(x, x)
        mixed = _B * read(gram) + _C * read(_times(gram, gram))
        x = _A * read(x) + _times(mixed, np.ascontiguousarray(x.T))
    return write(x.T if tall else x)


def _normed(x: Float) -> Float:
    """A matrix [m, n] of magnitudes below 1 over its norm."""
    rows = fixing.fix(x, ACTIVATION_DIGITS)
    squares = floats.nearest(fixing.square_sums(rows.digits))
    squares = floats.scaled(squares, 2 * (rows.exponent - _PLACES))[None, :]
    bits = squares.view(np.int32)
    exponent, finite = fixing.exponents(bits)
    numbers = fixing.whole_numbers(bits, exponent, finite, ACTIVATION_DIGITS)
    norm = floats.scaled(floats.nearest(integers.total(numbers)), exponent - _PLACES)
    return read(x) * floats.divide(ONE, floats.square_root(norm))


def _times(x: Float, y: Float) -> Float:
    """Rows of x [M, K] times rows of y [N, K]: [M, N]."""
    return fixing.product(*(fixing.fix(matrix, ACTIVATION_DIGITS) for matrix in (x, y)))
