"""From one type to another."""

import numpy as np

from glm5_hal.conformance.simulated.ttir.chip import Chip
from glm5_hal.conformance.simulated.ttir.errors import TtirError
from glm5_hal.conformance.simulated.ttir.floats import held, number
from glm5_hal.conformance.simulated.ttir.graph import Operation
from glm5_hal.conformance.simulated.ttir.integers import unsigned
from glm5_hal.conformance.simulated.ttir.registry import Kernel, pure
from glm5_hal.conformance.simulated.ttir.types import Array


@pure("arith.extsi")
def _signed(op: Operation, chip: Chip) -> Kernel:
    wanted = op.type.storage
    if op.operands[0].type.element == "i1":
        return lambda x: -x.astype(wanted)
    return lambda x: x.astype(wanted)


@pure("arith.extui")
def _unsigned(op: Operation, chip: Chip) -> Kernel:
    wanted = op.type.storage
    return lambda x: unsigned(x).astype(wanted)


@pure("arith.trunci")
def _truncated(op: Operation, chip: Chip) -> Kernel:
    wanted = op.type.storage
    if op.type.element == "i1":
        return lambda x: (x & 1).astype(np.bool_)
    return lambda x: x.astype(wanted)


@pure("arith.sitofp", "arith.uitofp")
def _to_float(op: Operation, chip: Chip) -> Kernel:
    element, positive = op.type.element, op.name == "arith.uitofp"
    wanted = np.dtype(np.float32) if element == "bf16" else op.type.storage
    if not positive and op.operands[0].type.element == "i1":
        return lambda x: held(-x.astype(wanted), element)
    if not positive:
        return lambda x: held(x.astype(wanted), element)
    return lambda x: held(unsigned(x).astype(wanted), element)


@pure("arith.fptosi", "arith.fptoui")
def _to_integer(op: Operation, chip: Chip) -> Kernel:
    element, wanted = op.operands[0].type.element, op.type.storage
    if op.name == "arith.fptoui":
        whole = np.dtype(f"u{wanted.itemsize}")
        return lambda x: number(x, element).astype(whole).view(wanted)
    return lambda x: number(x, element).astype(wanted)


@pure("arith.extf", "arith.truncf", "tt.fp_to_fp")
def _float(op: Operation, chip: Chip) -> Kernel:
    rounding = op.attributes.get("rounding") or op.attributes.get("roundingmode") or "rtne"
    if rounding not in ("rtne", "to_nearest_even"):
        raise TtirError(f"rounding {rounding!r} is not known")
    source, goal = op.operands[0].type.element, op.type.element
    if goal == "bf16":
        return lambda x: held(number(x, source).astype(np.float32), "bf16")
    wanted = op.type.storage
    return lambda x: number(x, source).astype(wanted)


@pure("tt.bitcast", "arith.bitcast")
def _bits(op: Operation, chip: Chip) -> Kernel:
    source, goal = op.operands[0].type, op.type
    if goal.element == "ptr":
        return _pointer_bits(op)
    wanted = goal.storage
    if source.storage.itemsize != wanted.itemsize:
        raise TtirError(f"the bits of {source} are not those of {goal}")
    return lambda x: x.view(wanted)


def _pointer_bits(op: Operation) -> Kernel:
    """Pointers count elements of what they point to."""
    before, after = op.operands[0].type.pointee_size, op.type.pointee_size
    if before == after:
        return lambda x: x
    if before > after:
        return lambda x: x * (before // after)

    def wider(x: Array) -> Array:
        return np.asarray(x // (after // before))

    return wider
