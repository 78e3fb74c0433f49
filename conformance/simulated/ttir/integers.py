"""Integers: arithmetic, bits, comparisons."""

import operator
from collections.abc import Callable

import numpy as np

from glm5_hal.conformance.simulated.ttir.chip import Chip
from glm5_hal.conformance.simulated.ttir.errors import TtirError
from glm5_hal.conformance.simulated.ttir.graph import Operation
from glm5_hal.conformance.simulated.ttir.registry import Kernel, pure
from glm5_hal.conformance.simulated.ttir.types import Array

UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}


def unsigned(x: Array) -> Array:
    """The same bits as numbers without a sign."""
    return x if x.dtype == np.bool_ else x.view(UNSIGNED[8 * x.itemsize])


def signed(x: Array) -> Array:
    """The same bits as numbers with a sign."""
    return x if x.dtype == np.bool_ else x.view(np.dtype(f"i{x.itemsize}"))


SIMPLE: dict[str, tuple[Kernel, Kernel]] = {
    "arith.addi": (np.add, np.logical_xor),
    "arith.subi": (np.subtract, np.logical_xor),
    "arith.muli": (np.multiply, np.logical_and),
    "arith.andi": (np.bitwise_and, np.logical_and),
    "arith.ori": (np.bitwise_or, np.logical_or),
    "arith.xori": (np.bitwise_xor, np.logical_xor),
    "arith.shli": (np.left_shift, np.left_shift),
    "arith.shrsi": (np.right_shift, np.right_shift),
    "arith.maxsi": (np.maximum, np.logical_and),  # a single bit's sign is its value
    "arith.minsi": (np.minimum, np.logical_or),
}
"""Ops to what computes them: of integers, and of single bits."""


@pure(*SIMPLE)
def _simple(op: Operation, chip: Chip) -> Kernel:
    return SIMPLE[op.name][op.type.element == "i1"]


UNSIGNED_OPS: dict[str, Kernel] = {
    "arith.shrui": np.right_shift,
    "arith.maxui": np.maximum,
    "arith.minui": np.minimum,
    "arith.divui": np.floor_divide,
    "arith.remui": np.remainder,
}


@pure(*UNSIGNED_OPS)
def _unsigned(op: Operation, chip: Chip) -> Kernel:
    own = UNSIGNED_OPS[op.name]
    return lambda a, b: signed(own(unsigned(a), unsigned(b)))


@pure("arith.divsi", "arith.ceildivsi", "arith.floordivsi")
def _quotient(op: Operation, chip: Chip) -> Kernel:
    known: dict[str, Kernel] = {"arith.divsi": truncated, "arith.floordivsi": np.floor_divide}
    return known.get(op.name, _ceiling)


def truncated(a: Array, b: Array) -> Array:
    """Quotients towards zero."""
    made = np.floor_divide(a, b)
    if _negative(a) or _negative(b):
        made += ((a < 0) != (b < 0)) & (made * b != a)
    return np.asarray(made)


def _ceiling(a: Array, b: Array) -> Array:
    return np.asarray(-np.floor_divide(-a, b))


@pure("arith.remsi")
def _rest(op: Operation, chip: Chip) -> Kernel:
    def rest(a: Array, b: Array) -> Array:
        if _negative(a) or _negative(b):
            return np.asarray(np.fmod(a, b))
        return np.asarray(np.remainder(a, b))

    return rest


def _negative(x: Array) -> bool:
    return x.size > 0 and int(x.min()) < 0


@pure("math.absi")
def _magnitude(op: Operation, chip: Chip) -> Kernel:
    return np.abs


@pure("tt.mulhiui")
def _high_product(op: Operation, chip: Chip) -> Kernel:
    return high_product


def high_product(a: Array, b: Array) -> Array:
    """The upper half of products of numbers without a sign."""
    if a.itemsize < 8:
        wide = unsigned(a).astype(np.uint64) * unsigned(b).astype(np.uint64)
        return signed((wide >> np.uint64(8 * a.itemsize)).astype(UNSIGNED[8 * a.itemsize]))
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    x, y = unsigned(a), unsigned(b)
    x1, x0, y1, y0 = x >> half, x & mask, y >> half, y & mask
    middle = x1 * y0 + (x0 * y0 >> half)
    other = x0 * y1 + (middle & mask)
    return signed(x1 * y1 + (middle >> half) + (other >> half))


COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    **{
        f"{sign}{name}": getattr(operator, name)
        for sign in "su"
        for name in ("lt", "le", "gt", "ge")
    },
}


@pure("arith.cmpi")
def _compare(op: Operation, chip: Chip) -> Kernel:
    (predicate,) = op.words
    if predicate not in COMPARISONS:
        raise TtirError(f"comparison {predicate!r} is not known")
    own = COMPARISONS[predicate]
    if predicate[0] == "u":
        return lambda a, b: own(unsigned(a), unsigned(b))
    if predicate[0] == "s" and op.operands[0].type.element == "i1":
        return lambda a, b: own(b, a)  # true is -1
    return own
