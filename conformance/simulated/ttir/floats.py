"""Floats: arithmetic, comparisons, functions. bfloat16 is computed in float32 and rounded."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from glm5_hal.conformance.simulated.ttir.chip import Chip
from glm5_hal.conformance.simulated.ttir.errors import TtirError
from glm5_hal.conformance.simulated.ttir.graph import Operation
from glm5_hal.conformance.simulated.ttir.registry import Kernel, pure
from glm5_hal.conformance.simulated.ttir.types import Array


def widened(bits: Array) -> Array:
    """float32 of bfloat16 bits."""
    return (bits.astype(np.int32) << 16).view(np.float32)


def narrowed(x: Array) -> Array:
    """bfloat16 bits of float32: to nearest, ties to even; one NaN."""
    bits = np.ascontiguousarray(x).view(np.int32)
    up = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), 0x7FC0, up).astype(np.int16).reshape(x.shape)


def number(x: Array, element: str) -> Array:
    """A value as numbers that numpy computes with."""
    return widened(x) if element == "bf16" else x


def held(x: Array, element: str) -> Array:
    """Numbers as they are held."""
    return narrowed(x) if element == "bf16" else x


def computed(op: Operation, own: Kernel) -> Kernel:
    """`own` on the numbers of an operation's operands."""
    element = op.operands[0].type.element
    if element != "bf16":
        return own
    return lambda *operands: narrowed(own(*map(widened, operands)))


def fused(a: Array, b: Array, c: Array) -> Array:
    """a * b + c of float32, rounded once."""
    product = a.astype(np.float64) * b  # exact
    total = product + c
    part = total - product
    rest = (product - (total - part)) + (c - part)
    # a sum that is inexact is made odd, so that the second rounding cannot tie
    even = (total.view(np.int64) & 1) == 0
    inexact = (rest != 0) & even & np.isfinite(total)
    towards = np.where((rest > 0) == (total > 0), 1, -1)
    odd = (total.view(np.int64) + np.where(inexact, towards, 0)).view(np.float64)
    return np.asarray(odd.astype(np.float32))


BINARY: dict[str, Kernel] = {
    "arith.addf": np.add,
    "arith.subf": np.subtract,
    "arith.mulf": np.multiply,
    "arith.divf": np.divide,
    "arith.remf": np.fmod,
    "arith.maxnumf": np.fmax,
    "arith.minnumf": np.fmin,
    "arith.maximumf": np.maximum,
    "arith.minimumf": np.minimum,
    "tt.precise_divf": np.divide,
}


def _by_torch(function: Callable[[Any], Any]) -> Kernel:
    return lambda x: function(torch.from_numpy(np.ascontiguousarray(x))).numpy().reshape(x.shape)


UNARY: dict[str, Kernel] = {
    "arith.negf": np.negative,
    "math.absf": np.abs,
    "math.sqrt": np.sqrt,
    "tt.precise_sqrt": np.sqrt,
    "math.exp": np.exp,
    "math.exp2": np.exp2,
    "math.log": np.log,
    "math.log2": np.log2,
    "math.sin": np.sin,
    "math.cos": np.cos,
    "math.tanh": np.tanh,
    "math.floor": np.floor,
    "math.ceil": np.ceil,
    "math.rsqrt": lambda x: np.divide(1, np.sqrt(x), dtype=x.dtype),
    "math.erf": _by_torch(torch.erf),
}


@pure(*BINARY)
def _binary(op: Operation, chip: Chip) -> Kernel:
    return computed(op, BINARY[op.name])


@pure(*UNARY)
def _unary(op: Operation, chip: Chip) -> Kernel:
    return computed(op, UNARY[op.name])


@pure("math.fma")
def _fma(op: Operation, chip: Chip) -> Kernel:
    if op.type.element == "f64":
        raise TtirError("a fused multiply-add of float64 is not executed here")
    if op.type.element == "f16":
        return lambda a, b, c: (a.astype(np.float64) * b + c).astype(np.float16)
    return computed(op, fused)


SIGNS = {"multiply_add": (1, 1), "multiply_subtract": (1, -1), "subtract_product": (-1, 1)}


@pure(*(f"fused.{name}" for name in SIGNS))
def _contracted(op: Operation, chip: Chip) -> Kernel:
    left, right = SIGNS[op.name.removeprefix("fused.")]
    return lambda a, b, c: fused(left * a, b, right * c)


@pure("tt.clampf")
def _clamp(op: Operation, chip: Chip) -> Kernel:
    if op.attributes.get("propagateNan", "none") == "none":
        return computed(op, lambda x, low, high: np.fmin(np.fmax(x, low), high))
    return computed(op, lambda x, low, high: np.minimum(np.maximum(x, low), high))


_COMPARED: dict[str, Kernel] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "rd": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
    "no": lambda a, b: np.isnan(a) | np.isnan(b),
}
_OPPOSITE = {"eq": "ne", "lt": "ge", "le": "gt", "gt": "le", "ge": "lt", "ne": "eq"}


@pure("arith.cmpf")
def _compare(op: Operation, chip: Chip) -> Kernel:
    predicate = next(word for word in op.words if word != "fastmath")
    element = op.operands[0].type.element
    own = _predicate(predicate)
    return lambda a, b: own(number(a, element), number(b, element))


def _predicate(name: str) -> Kernel:
    """Ordered comparisons are false of NaN, unordered ones true; "ord" and "uno" ask for it."""
    kind, comparison = name[0], name[1:]
    if comparison not in _COMPARED or kind not in "ou":
        raise TtirError(f"comparison {name!r} is not known")
    if name in ("ord", "uno", "une") or (kind == "o" and comparison != "ne"):
        return _COMPARED[comparison]
    if name == "one":
        return lambda a, b: np.less(a, b) | np.greater(a, b)
    own = _COMPARED[_OPPOSITE[comparison]] if comparison != "eq" else None
    if own is None:  # "ueq"
        return lambda a, b: ~(np.less(a, b) | np.greater(a, b))
    return lambda a, b: ~own(a, b)
