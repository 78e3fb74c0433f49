"""Copies of tensors that lie as the original does: strides are part of what an op is given."""

import math

import torch
from torch import Tensor


def copy(tensor: Tensor) -> Tensor:
    """A copy with the strides of a host tensor; between its elements stands what nobody may read.

    Elements that share memory (an expanded dimension) are laid out one by one.
    """
    return lay(tensor, tensor.stride())


def lay(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    """A copy with these strides, as far as they fit the tensor's shape."""
    if (
        not tensor.numel()
        or tuple(strides) == contiguous(tensor.shape)
        or not _apart(tensor.shape, strides)
    ):
        return tensor.clone(memory_format=torch.contiguous_format)
    filler = math.nan if tensor.is_floating_point() else -1
    buffer = tensor.new_full((_reach(tensor.shape, strides),), filler)
    return buffer.as_strided(tensor.shape, strides).copy_(tensor)


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a tensor without gaps, its last dimension the innermost."""
    return tuple(math.prod(shape[place + 1 :]) for place in range(len(shape)))


def buffer_of(tensor: Tensor) -> Tensor:
    """The memory that `copy` made, from the first element to the last, [reach]."""
    return tensor.as_strided((_reach(tensor.shape, tensor.stride()),), (1,))


def _reach(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    return sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1


def _apart(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether no two elements share memory."""
    if len(shape) != len(strides):
        return False
    needed = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1 and stride < needed:
            return False
        needed += stride * (size - 1)
    return True
