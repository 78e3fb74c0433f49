"""Memory that a launch reaches: one stretch, from the first to the last byte of its tensors.

A pointer is a number of elements of its type from the beginning of the stretch on.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from glm5_hal.conformance.simulated.ttir.errors import KernelError
from glm5_hal.conformance.simulated.ttir.types import Array

LINE = 64
"""Bytes to a multiple of which the stretch is extended."""


class Memory:
    """Reads and writes by pointers.

    Args:
        tensors: of the launch, as the executing thread reaches them.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        spans = [_span(tensor) for tensor in tensors if tensor.numel()]
        first = min((begin for begin, _ in spans), default=0)
        last = max((end for _, end in spans), default=0)
        self.base = first // LINE * LINE
        self.size = -(-last // LINE) * LINE - self.base
        self._bytes = _bytes(self.base, self.size)
        self._views: dict[np.dtype[np.generic], Array] = {}

    def pointer(self, tensor: Tensor) -> int:
        """To the first element of a tensor; 0 where it has none."""
        if not tensor.numel():
            return 0
        return self.element(tensor.data_ptr(), tensor.element_size())

    def element(self, address: int, size: int) -> int:
        """The pointer to an address, of elements of `size` bytes."""
        distance = address - self.base
        if distance % size:
            raise KernelError(f"address {address:#x} is no multiple of {size} bytes")
        return distance // size

    def elements(self, addresses: Array, size: int) -> Array:
        """`element` of each address."""
        distances = addresses - self.base
        if (distances % size).any():
            raise KernelError(f"an address is no multiple of {size} bytes")
        return np.asarray(distances // size)

    def gather(self, pointers: Array, dtype: "np.dtype[np.generic]") -> Array:
        """Elements at pointers, of their shape."""
        view = self._view(dtype)
        self._check(pointers, view.dtype, "reads")
        return view.take(pointers, mode="clip")

    def scatter(self, pointers: Array, values: Array) -> None:
        """Write elements at pointers; where several are equal, the last one stays."""
        view = self._view(values.dtype)
        self._check(pointers, view.dtype, "writes")
        view[pointers] = values

    def change(self, pointers: Array, dtype: "np.dtype[np.generic]") -> Array:
        """All elements of a type, of which those at `pointers` are to be changed."""
        view = self._view(dtype)
        self._check(pointers, view.dtype, "changes")
        return view

    def _view(self, dtype: "np.dtype[np.generic]") -> Array:
        found = self._views.get(dtype)
        if found is None:
            found = self._bytes.view(dtype)
            self._views[dtype] = found
        return found

    def left(self, pointers: Array, dtype: "np.dtype[np.generic]", does: str) -> KernelError:
        """The error of a kernel one of whose pointers is outside."""
        count = len(self._view(dtype))
        bad = pointers[(pointers < 0) | (pointers >= count)][0]
        return KernelError(
            f"it {does} element {bad} of {count}: outside of the memory of its tensors"
        )

    def _check(self, pointers: Array, dtype: "np.dtype[np.generic]", does: str) -> None:
        count = len(self._view(dtype))
        if pointers.size and (pointers.min() < 0 or pointers.max() >= count):
            raise self.left(pointers, dtype, does)


class _Stretch:
    """What numpy asks for an array on memory that is there already."""

    def __init__(self, address: int, size: int) -> None:
        place = {"version": 3, "typestr": "|u1", "data": (address, False), "shape": (size,)}
        self.__array_interface__ = place


def _bytes(address: int, size: int) -> Array:
    """Memory as bytes; a ctypes array would need a type of its own for every size."""
    return np.asarray(_Stretch(address, size)) if size else np.empty(0, np.uint8)


def _span(tensor: Tensor) -> tuple[int, int]:
    """First address and the one behind the last one of a tensor's elements."""
    begin = tensor.data_ptr()
    if tensor.is_contiguous():
        return begin, begin + tensor.nbytes
    if any(stride < 0 for stride in tensor.stride()):  # torch makes none
        raise KernelError("a tensor with a negative stride")
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((size - 1) * stride for size, stride in steps)
    return begin, begin + (last + 1) * tensor.element_size()
