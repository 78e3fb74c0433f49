"""Matrix products of tiles."""

import numpy as np

from glm5_hal.conformance.simulated import build
from glm5_hal.conformance.simulated.rounding import rounded_array
from glm5_hal.conformance.simulated.ttir.chip import Chip
from glm5_hal.conformance.simulated.ttir.errors import TtirError
from glm5_hal.conformance.simulated.ttir.floats import held, number
from glm5_hal.conformance.simulated.ttir.graph import Operation
from glm5_hal.conformance.simulated.ttir.registry import Kernel, pure
from glm5_hal.conformance.simulated.ttir.shapes import full
from glm5_hal.conformance.simulated.ttir.types import Array

TF32_BITS = 10
EXACT_IN_FLOAT32 = 1024
"""Products of bytes, at most 2^14 each, whose sum float32 holds, in any order."""


@pure("tt.dot")
def _dot(op: Operation, chip: Chip) -> Kernel:
    a, b, total = (operand.type for operand in op.operands)
    precision = op.attributes.get("inputPrecision", "ieee")
    if not a.is_float:
        unknown = a.element != "i8" or total.element != "i32"
        if unknown:
            raise TtirError(f"tl.dot of {a.element} into {total.element} is not executed here")
        return _integers(a.shape, b.shape, exact=not chip.habits.int8_through_float32)
    if precision not in ("ieee", "tf32") and a.element == "f32":
        raise TtirError(f"tl.dot with input precision {precision} is not executed here")
    bits = TF32_BITS if a.element == "f32" and precision == "tf32" else None
    wide = np.dtype(np.float64 if total.element == "f64" else np.float32)

    def operand(x: Array, element: str, shape: tuple[int, ...]) -> Array:
        value = number(x, element).astype(wide, copy=False)
        return full(value if bits is None else rounded_array(value, bits), shape)

    def dot(x: Array, y: Array, z: Array) -> Array:
        made = np.matmul(operand(x, a.element, a.shape), operand(y, b.element, b.shape))
        return held((made + number(z, total.element)).astype(wide), total.element)

    if total.element == "f16":
        return lambda x, y, z: dot(x, y, z).astype(np.float16)
    return dot


def _integers(left: tuple[int, ...], right: tuple[int, ...], exact: bool) -> Kernel:
    """Products of bytes: exact, or summed in float32."""
    few = left[-1] <= EXACT_IN_FLOAT32
    if len(left) == 2 and exact:
        return lambda x, y, z: build.load().byte_products(x, y, z, *left, right[-1])
    wide = np.dtype(np.float32 if few or not exact else np.float64)

    def dot(x: Array, y: Array, z: Array) -> Array:
        made = np.matmul(full(x.astype(wide), left), full(y.astype(wide), right))
        if exact:
            return np.asarray(made.astype(np.int32) + z)
        return np.asarray((made + z.astype(np.float32)).astype(np.int32))

    return dot
