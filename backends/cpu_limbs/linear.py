"""Linear projections: activations of three digits times weights of two or three."""

import itertools

import numpy as np
import torch
from torch import Tensor

from glm5_hal import Weight
from glm5_hal.backends.cpu_limbs import fixing, integers
from glm5_hal.backends.cpu_limbs.arrays import (
    Bool,
    Int,
    bits_of,
    floats_of,
    tensor_of,
    whole_tensor,
)
from glm5_hal.backends.cpu_limbs.fixing import ACTIVATION_DIGITS, Fixed
from glm5_hal.ops.row_exponents import NOT_FINITE


def weight_digits(dtype: torch.dtype) -> int:
    """Digits of weights and cached rows: 2 for bfloat16, 3 for float32."""
    return 2 if dtype == torch.bfloat16 else 3


def prepared(tensor: Tensor) -> Fixed:
    """A weight [..., N, K] cut to digits, once."""
    return fixing.fix(floats_of(tensor), weight_digits(tensor.dtype))


def prepared_columns(tensor: Tensor, start: int, stop: int) -> Fixed:
    """The columns [start, stop) of a weight [N, K], with the exponents of its whole rows."""
    digits = weight_digits(tensor.dtype)
    exponent, finite = fixing.exponents(bits_of(tensor))
    numbers = fixing.whole_numbers(bits_of(tensor[:, start:stop]), exponent, finite, digits)
    return Fixed(fixing.cut(numbers, digits), exponent, finite)


def fixed_weight(w: Weight) -> Fixed:
    """What `prepared` made of a weight."""
    assert isinstance(w.data, Fixed)
    return w.data


def row_exponents(x: Tensor) -> Tensor:
    """Exponents [T] int32 of rows [T, K]; NOT_FINITE where a row holds NaN or Inf."""
    exponent, finite = fixing.exponents(bits_of(x))
    return whole_tensor(np.where(finite, exponent, np.int32(NOT_FINITE)))


def linear_limbs(x: Tensor, w: Fixed, exponents: Tensor) -> Tensor:
    """The sums of one rank's columns, [T, N, 3]: limbs of 24 bits, the last with the sign."""
    low, second, third, high = row_sums(x, *_shared(exponents), w)
    middle = (second >> 8) | (third << 8)
    return whole_tensor(np.stack((low | ((second & 0xFF) << 16), middle, high), axis=-1))


def linear_from_limbs(limbs: Tensor, exponents: Tensor, w: Fixed, dtype: torch.dtype) -> Tensor:
    """Values [T, N] of the ranks' limbs [T, N, 3], added."""
    low, middle, high = np.moveaxis(limbs.numpy(), -1, 0)
    number = integers.zero(integers.SUM_LIMBS, low.shape)
    integers.add(number, low, 0)
    integers.add(number, middle, 24)
    number[3] += high
    return _values(integers.carried(number), *_shared(exponents), w, dtype)


def linear(x: Tensor, w: Fixed, dtype: torch.dtype) -> Tensor:
    """x [T, K] times w [N, K]: [T, N] in `dtype`."""
    exponent, finite = fixing.exponents(bits_of(x))
    return _values(row_sums(x, exponent, finite, w), exponent, finite, w, dtype)


def row_sums(x: Tensor, exponent: Int, finite: Bool, w: Fixed) -> Int:
    """Whole sums of x [T, K] and w [N, K], with exponents [T] that somebody else chose.

    They may be those of longer rows of which x is a piece; the sums of the pieces then add up to
    the sum of the whole.

    Returns:
        [4, T, N] limbs, carried.
    """
    bits = bits_of(x)
    known = finite & fixing.exponents(bits)[1]
    numbers = fixing.whole_numbers(bits, exponent, known, ACTIVATION_DIGITS)
    return fixing.sums(fixing.cut(numbers, ACTIVATION_DIGITS), w.digits)


def _shared(exponents: Tensor) -> tuple[Int, Bool]:
    """The ranks' largest exponents [T] as (exponent, finite)."""
    exponent: Int = exponents.numpy()
    return exponent, exponent != NOT_FINITE


def _values(number: Int, exponent: Int, finite: Bool, w: Fixed, dtype: torch.dtype) -> Tensor:
    scale = exponent[:, None] + w.exponent - (fixing.places(ACTIVATION_DIGITS) + w.places)
    both = finite[:, None] & w.finite
    return tensor_of(fixing.scaled_sums(number, scale, both), dtype)


def head_linear(x: Tensor, w: Fixed) -> Tensor:
    """x [T, H, K] times w [H, N, K] head by head: [T, H, N]."""
    query = fixing.fix(floats_of(x.transpose(0, 1)), ACTIVATION_DIGITS)
    return tensor_of(fixing.product(query, w).swapaxes(0, 1), x.dtype)


def grouped_linear(x: Tensor, w: Weight, offsets: Tensor) -> Tensor:
    """Rows [offsets[e], offsets[e + 1]) of x [P, K] times w[e] [N, K]: [P, N]."""
    out = x.new_empty(x.shape[0], w.shape[1])
    experts = fixed_weight(w)
    for expert, (start, end) in enumerate(itertools.pairwise(offsets.tolist())):
        if start < end:
            out[start:end] = linear(x[start:end], experts[expert], x.dtype)
    return out
