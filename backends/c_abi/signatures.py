"""Each op as a function in C: its parameters in the order of the contract, then its results."""

import ctypes
import functools
import typing
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

import glm5_hal.ops  # noqa: F401 - fills OPS
from glm5_hal import Cache, PagedContext, Weight
from glm5_hal.contract import OPS, Op
from glm5_hal.levels import Numerics

MAX_RANK = 4

NOT_IN_ABI = {
    name: "the C interface has no weights that are shared out among ranks"
    for name, op in OPS.items()
    if op.profile is Numerics.EXACT
}
"""Ops without a function in C, and why."""

DTYPES = MappingProxyType({torch.float32: 1, torch.bfloat16: 2, torch.int32: 3})
"""``GLM5_F32`` and the others of glm5_hal.h."""


class TensorC(ctypes.Structure):
    """``glm5_tensor``."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.c_int64 * MAX_RANK),
        ("strides", ctypes.c_int64 * MAX_RANK),
    )


class CacheC(ctypes.Structure):
    """``glm5_cache``."""

    _fields_ = (
        ("rows", TensorC),
        ("pages", ctypes.c_int64),
        ("page_size", ctypes.c_int64),
    )


class ContextC(ctypes.Structure):
    """``glm5_context``."""

    _fields_ = (
        ("page_table", TensorC),
        ("sequence", TensorC),
        ("lengths", TensorC),
        ("max_length", ctypes.c_int64),
    )


@dataclass(frozen=True)
class Kind:
    """How values of one Python type are handed over.

    Attributes:
        written: in C, ending where the name begins.
        type: of ctypes.
    """

    written: str
    type: Any


_KINDS: dict[Any, Kind] = {
    Tensor: Kind("const glm5_tensor *", ctypes.POINTER(TensorC)),
    Weight: Kind("const glm5_tensor *", ctypes.POINTER(TensorC)),
    Cache: Kind("const glm5_cache *", ctypes.POINTER(CacheC)),
    PagedContext: Kind("const glm5_context *", ctypes.POINTER(ContextC)),
    torch.dtype: Kind("int32_t ", ctypes.c_int32),
    bool: Kind("int32_t ", ctypes.c_int32),
    int: Kind("int64_t ", ctypes.c_int64),
    float: Kind("double ", ctypes.c_double),
}
_RESULT = Kind("glm5_tensor *", ctypes.POINTER(TensorC))
_STREAM = Kind("glm5_stream *", ctypes.c_void_p)


@dataclass(frozen=True)
class Signature:
    """A function of the interface.

    Attributes:
        name: of the function.
        parameters: name and kind of each, the stream first and the results last.
    """

    name: str
    parameters: tuple[tuple[str, Kind], ...]

    @property
    def declaration(self) -> str:
        """As it stands in glm5_hal.h, on one line."""
        listed = ", ".join(f"{kind.written}{name}" for name, kind in self.parameters)
        return f"int32_t {self.name}({listed});"

    @property
    def types(self) -> list[Any]:
        """For ctypes."""
        return [kind.type for _, kind in self.parameters]


@functools.cache
def signature_of(op: str) -> Signature:
    """The function that an op is in C."""
    spec = OPS[op]
    given = [(name, _KINDS[kind]) for name, kind in _plain_types(spec).items()]
    count = len(spec.results)
    names = ["out"] if count == 1 else [f"out{number}" for number in range(count)]
    results = [(name, _RESULT) for name in names]
    return Signature(f"glm5_{op}", (("stream", _STREAM), *given, *results))


def _plain_types(op: Op[..., Any]) -> dict[str, Any]:
    """Type of each parameter, without annotations and without None."""
    hints = typing.get_type_hints(op.reference)
    return {name: _without_none(hints[name]) for name in op.signature.parameters}


def _without_none(hint: Any) -> Any:
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    return parts[0] if parts else hint
