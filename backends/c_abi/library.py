"""A library in C behind glm5_hal.h: loaded, asked what it is, called; its memory."""

import ctypes
import logging
import math
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glm5_hal.backends.c_abi.signatures import DTYPES, MAX_RANK, TensorC, signature_of
from glm5_hal.errors import ContractError, HalError

log = logging.getLogger("glm5_hal")

ABI = 1
"""``GLM5_HAL_ABI`` of the header that this bridge speaks."""

_ADDRESS = ctypes.c_void_p
_NUMBER = ctypes.c_int32
_TEXT = ctypes.c_char_p
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "glm5_version": (_TEXT, []),
    "glm5_error": (_TEXT, []),
    "glm5_device_count": (_NUMBER, []),
    "glm5_supports": (_NUMBER, [_TEXT, _NUMBER]),
    "glm5_open": (_NUMBER, [_NUMBER, _NUMBER, ctypes.POINTER(_ADDRESS)]),
    "glm5_close": (_NUMBER, [_ADDRESS]),
    "glm5_synchronize": (_NUMBER, [_ADDRESS]),
    "glm5_alloc": (_NUMBER, [_ADDRESS, ctypes.c_size_t, ctypes.POINTER(_ADDRESS)]),
    "glm5_free": (_NUMBER, [_ADDRESS, _ADDRESS]),
    "glm5_copy_in": (_NUMBER, [_ADDRESS, _ADDRESS, _ADDRESS, ctypes.c_size_t]),
    "glm5_copy_out": (_NUMBER, [_ADDRESS, _ADDRESS, _ADDRESS, ctypes.c_size_t]),
}


class LibraryError(HalError):
    """A library that does not fit the interface, or a call of it that failed."""


class Library:
    """A loaded library.

    Args:
        path: of the shared library.

    Raises:
        LibraryError: it cannot be loaded, or speaks another version of the interface.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._loaded = ctypes.CDLL(str(path))
        except OSError as error:
            raise LibraryError(f"{path} does not load: {error}") from error
        spoken = self.function("glm5_abi", _NUMBER, [])()
        if spoken != ABI:
            raise LibraryError(
                f"{path} speaks version {spoken} of glm5_hal.h, this glm5-hal version {ABI}: build "
                "it again with the header of a package that `glm5-hal new-backend` writes"
            )
        self._functions = {
            name: self.function(name, result, types) for name, (result, types) in _FUNCTIONS.items()
        }

    def function(self, name: str, result: Any, types: list[Any]) -> Callable[..., Any]:
        """An exported function.

        Raises:
            LibraryError: there is none of this name.
        """
        try:
            found = self._loaded[name]
        except AttributeError as error:
            raise LibraryError(f"{self.path} exports no {name}, which glm5_hal.h names") from error
        found.restype, found.argtypes = result, types
        return found

    @property
    def version(self) -> str:
        """What it says of itself."""
        return self._text("glm5_version")

    @property
    def error(self) -> str:
        """Why its last call failed."""
        return self._text("glm5_error")

    def _text(self, name: str) -> str:
        found: bytes | None = self._functions[name]()
        return "nothing (NULL)" if found is None else found.decode(errors="replace")

    @property
    def device_count(self) -> int:
        """Number of devices."""
        return int(self._functions["glm5_device_count"]())

    def supports(self, op: str, profile: int) -> bool:
        """Whether an op is written.

        Raises:
            LibraryError: it says so and does not export the function.
        """
        if not self._functions["glm5_supports"](op.encode(), profile):
            return False
        self.op(op)
        return True

    def op(self, name: str) -> Callable[..., Any]:
        """The function of an op."""
        signature = signature_of(name)
        return self.function(signature.name, _NUMBER, signature.types)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function that is no op.

        Raises:
            LibraryError: it failed.
        """
        self.check(name, self._functions[name](*arguments))

    def check(self, name: str, code: int) -> None:
        """Look at what a function returned.

        Raises:
            LibraryError: it failed.
        """
        if code:
            raise LibraryError(f"{name} of {self.path} failed ({code}): {self.error}")


class Device:
    """A stream on one device of a library, and memory there.

    Args:
        library: the library.
        index: of the device.
        profile: ``GLM5_FAST`` or ``GLM5_EXACT``.

    Raises:
        LibraryError: it cannot be opened.
    """

    def __init__(self, library: Library, index: int, profile: int) -> None:
        self.library = library
        opened = _ADDRESS()
        library.call("glm5_open", index, profile, ctypes.byref(opened))
        self.stream = opened.value
        weakref.finalize(self, _quietly, library, "glm5_close", self.stream)

    def synchronize(self) -> None:
        """Wait for everything that was submitted."""
        self.library.call("glm5_synchronize", self.stream)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> "Held":
        """A tensor of undefined content."""
        return Held(self, shape, _plain_strides(shape), dtype)

    def take(self, tensor: Tensor, name: str = "a tensor") -> "Held":
        """A copy of a host tensor; gaps between its rows are copied along.

        Args:
            tensor: on the host.
            name: as an error calls it.

        Raises:
            ContractError: its dtype or rank is none of the interface's.
        """
        if tensor.dtype not in DTYPES:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise ContractError(f"{name} is {dtype}, the C interface has {known}")
        if tensor.ndim > MAX_RANK:
            raise ContractError(f"{name} has {tensor.ndim} dimensions, the C interface {MAX_RANK}")
        kept = tensor if _rows_are_whole(tensor) else tensor.contiguous()
        shape = tuple(kept.shape)
        # of a dimension of one element torch keeps any stride
        strides = _plain_strides(shape) if kept.is_contiguous() else kept.stride()
        held = Held(self, shape, strides, kept.dtype)
        if held.bytes:
            host = kept.data_ptr()
            self.library.call("glm5_copy_in", self.stream, held.address, host, held.bytes)
        return held


class Held:
    """A tensor in a library's memory, freed when nobody refers to it any more.

    Args:
        device: whose memory.
        shape, strides, dtype: of the tensor, strides in elements.

    Raises:
        LibraryError: the library has no memory for it.
    """

    def __init__(
        self,
        device: Device,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        dtype: torch.dtype,
    ) -> None:
        self.device = device
        self.shape, self.strides, self.dtype = shape, strides, dtype
        self.bytes = _span(shape, strides) * dtype.itemsize
        self.address = self._allocated()
        self.c = self._described()

    def _allocated(self) -> int | None:
        if not self.bytes:
            return None
        library, stream, found = self.device.library, self.device.stream, _ADDRESS()
        library.call("glm5_alloc", stream, self.bytes, ctypes.byref(found))
        if found.value is None:
            raise LibraryError(
                f"glm5_alloc of {library.path} gave NULL for {self.bytes} bytes and returned 0"
            )
        # the stream must outlive its memory: the finalizer holds the device
        weakref.finalize(self, _free, self.device, found.value)
        return found.value

    def _described(self) -> TensorC:
        rest = (0,) * (MAX_RANK - len(self.shape))
        rows = ctypes.c_int64 * MAX_RANK
        return TensorC(
            self.address,
            DTYPES[self.dtype],
            len(self.shape),
            rows(*self.shape, *rest),
            rows(*self.strides, *rest),
        )

    def host(self) -> Tensor:
        """A copy on the host, without gaps; for tensors that have none."""
        out = torch.empty(self.shape, dtype=self.dtype)
        if self.bytes:
            device = self.device
            target = out.data_ptr()
            device.library.call("glm5_copy_out", device.stream, target, self.address, self.bytes)
        return out


def _free(device: Device, address: int) -> None:
    _quietly(device.library, "glm5_free", device.stream, address)


def _quietly(library: Library, name: str, *arguments: Any) -> None:
    """Give something back, where an exception would reach nobody: a failure is logged."""
    try:
        library.call(name, *arguments)
    except LibraryError as error:
        log.warning("%s", error)


def _plain_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Those of a tensor without gaps."""
    return tuple(math.prod(shape[place + 1 :]) for place in range(len(shape)))


def _span(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from the first to behind the last, gaps included."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def _rows_are_whole(tensor: Tensor) -> bool:
    """Whether it can be handed over as it lies: no gaps inside a row, no two rows in one place, and
    no more gaps than elements.
    """
    shape, strides = tensor.shape, tensor.stride()
    if shape and strides[-1] != 1:
        return False
    extent = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if stride < extent:
            return False
        extent = size * stride
    return _span(shape, strides) <= 2 * tensor.numel()
