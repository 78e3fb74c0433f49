"""Types of TTIR, and the arrays that hold their values."""

import functools
import re
from dataclasses import dataclass

import numpy as np

from glm5_hal.conformance.simulated.ttir.errors import TtirError

Array = np.ndarray

STORAGE = {
    "i1": np.dtype(np.bool_),
    "i8": np.dtype(np.int8),
    "i16": np.dtype(np.int16),
    "i32": np.dtype(np.int32),
    "i64": np.dtype(np.int64),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(np.int16),
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
    "ptr": np.dtype(np.int64),
}
"""What holds an element: bfloat16 by its bits, a pointer as a number of elements (`Memory`)."""

_POINTER = re.compile(r"!tt\.ptr<(.+?)(?:, *\d+)?>$")


@dataclass(frozen=True)
class Type:
    """A scalar or a tensor of scalars.

    Attributes:
        element: ``i1`` to ``i64``, ``f16``, ``bf16``, ``f32``, ``f64`` or ``ptr``.
        shape: of the tensor; empty for a scalar.
        pointee: what an element points to; None where it is no pointer.
    """

    element: str
    shape: tuple[int, ...] = ()
    pointee: str | None = None

    @property
    def storage(self) -> "np.dtype[np.generic]":
        """dtype of the arrays that hold it."""
        return STORAGE[self.element]

    @property
    def pointee_size(self) -> int:
        """Bytes of what a pointer points to."""
        assert self.pointee is not None
        return STORAGE[self.pointee].itemsize

    @property
    def is_float(self) -> bool:
        """Whether it is a number with a point."""
        return self.element in ("f16", "bf16", "f32", "f64")

    def of(self, element: str) -> "Type":
        """The same shape of other elements."""
        return Type(element, self.shape)

    def __str__(self) -> str:
        element = f"!tt.ptr<{self.pointee}>" if self.pointee else self.element
        return f"tensor<{'x'.join(map(str, self.shape))}x{element}>" if self.shape else element


@functools.lru_cache(maxsize=4096)
def parse_type(text: str) -> Type:
    """A type as TTIR prints it.

    Raises:
        TtirError: it is none that is known here.
    """
    text = text.strip()
    if text.startswith("tensor<"):
        inside = text[len("tensor<") : -1]
        sizes = re.match(r"(?:\d+x)*", inside)
        assert sizes is not None  # the pattern matches nothing, too
        shape = tuple(int(size) for size in sizes[0].split("x")[:-1])
        scalar = parse_type(inside[sizes.end() :])
        return Type(scalar.element, shape, scalar.pointee)
    pointer = _POINTER.match(text)
    if pointer is not None:
        return Type("ptr", (), parse_type(pointer[1]).element)
    if text not in STORAGE or text == "ptr":
        raise TtirError(f"type {text!r} is not known; known are {', '.join(STORAGE)}")
    return Type(text)
