"""What chips do to float32 values: fewer bits, neighbours, no subnormals."""

import numpy as np
import torch
from torch import Tensor

Bits = np.ndarray[tuple[int, ...], np.dtype[np.int32]]


def rounded(x: Tensor, bits: int) -> Tensor:
    """float32 values with `bits` explicit bits of the significand: to nearest, ties to even."""
    made = _rounded(x.contiguous().numpy().view(np.int32), bits)
    return torch.from_numpy(made.view(np.float32)).reshape(x.shape)


def nudged(x: Tensor) -> Tensor:
    """float32 values of which some are their neighbours; other dtypes as they are."""
    if x.dtype != torch.float32:
        return x
    return torch.from_numpy(nudged_array(x.contiguous().numpy())).reshape(x.shape)


def rounded_array(x: np.ndarray, bits: int) -> np.ndarray:
    """`rounded` of an array of float32."""
    return _rounded(np.ascontiguousarray(x).view(np.int32), bits).view(np.float32)


def nudged_array(x: np.ndarray) -> np.ndarray:
    """`nudged` of an array of float32: the same value always gives the same.

    Values of few bits, such as quotients that are exact, stay as they are.
    """
    bits = np.ascontiguousarray(x).view(np.int32)
    field = (bits >> 23) & 0xFF
    odd = (bits.astype(np.uint32) * np.uint32(0x9E3779B1)) >> np.uint32(29)
    moved = (odd < 2) & (field > 1) & (field < 254) & ((bits & 0xFF) != 0)
    step = np.where(odd == 0, 1, -1).astype(np.int32)
    return np.where(moved, bits + step, bits).view(np.float32).reshape(np.shape(x))


def _rounded(bits: Bits, kept: int) -> Bits:
    lost = 23 - kept
    half = np.int32((1 << (lost - 1)) - 1)
    up = (bits & np.int32(0x7FFFFFFF)) + half + ((bits >> lost) & 1)
    finite = ((bits >> 23) & 0xFF) != 0xFF
    made = (up >> lost << lost) | (bits & np.int32(-(1 << 31)))
    return np.where(finite, made, bits).astype(np.int32)
