"""Tensors as numpy arrays of at most 32 bits, and back.

Values are int8, int32 and float32 and nothing wider; positions (slots, orders, page tables) are
not values, and may be what numpy likes.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from glm5_hal import Weight

Bool: TypeAlias = npt.NDArray[np.bool_]
Digit: TypeAlias = npt.NDArray[np.int8]
Int: TypeAlias = npt.NDArray[np.int32]
Float: TypeAlias = npt.NDArray[np.float32]

quiet = np.errstate(over="ignore", under="ignore", invalid="ignore")
"""Decorates what may meet Inf and NaN: they are values here, and no news."""


def bits_of(x: Tensor) -> Int:
    """The float32 bits of a bfloat16 or float32 tensor, int32 of the same shape."""
    if x.dtype == torch.bfloat16:
        half: npt.NDArray[np.int16] = x.contiguous().view(torch.int16).numpy()
        return half.astype(np.int32) << 16
    bits: Int = x.contiguous().view(torch.int32).numpy()
    return bits


def floats_of(x: Tensor) -> Float:
    """The values of a bfloat16 or float32 tensor, float32."""
    return bits_of(x).view(np.float32)


def vector_of(w: Weight) -> Float:
    """A norm weight, a bias or a table, float32."""
    return floats_of(w.tensor)


def tensor_of(x: Float, dtype: torch.dtype) -> Tensor:
    """A new tensor of `dtype`: rounded to nearest, ties to even. NaNs are expected canonical."""
    bits = np.ascontiguousarray(x).view(np.int32)
    if dtype == torch.float32:
        return whole_tensor(bits).view(torch.float32)
    # the magnitude first: adding half a unit must not run into the sign
    magnitude = bits & 0x7FFFFFFF
    upper = (magnitude + (0x7FFF + ((magnitude >> 16) & 1))) >> 16
    upper |= (bits >> 16) & -0x8000
    return torch.from_numpy(np.array(upper.astype(np.int16), subok=False)).view(torch.bfloat16)


def whole_tensor(numbers: Int) -> Tensor:
    """A new int32 tensor."""
    return torch.from_numpy(np.array(numbers, np.int32, subok=False))
