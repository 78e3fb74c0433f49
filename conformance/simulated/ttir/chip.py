"""What a chip computes differently, operation by operation."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from glm5_hal.conformance.simulated.habits import NARROW, NATIVE, REFUSED, TritonHabits
from glm5_hal.conformance.simulated.rounding import nudged_array
from glm5_hal.conformance.simulated.ttir.errors import TtirError
from glm5_hal.conformance.simulated.ttir.graph import Operation
from glm5_hal.conformance.simulated.ttir.types import Array

Change = Callable[[Array], Array]

DOT_NAMES = {"i8": "int8", "f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64"}
FUNCTIONS = {
    f"math.{name}"
    for name in ("exp", "exp2", "log", "log2", "sin", "cos", "sqrt", "rsqrt", "erf", "tanh")
}


@dataclass(frozen=True)
class Chip:
    """Habits of a chip for one launch.

    Attributes:
        habits: of its compiler.
        fused: whether a product that is added to something is not rounded.
    """

    habits: TritonHabits
    fused: bool = False

    def check(self, op: Operation) -> None:
        """Refuse what its compiler refuses.

        Raises:
            TtirError: the operation's dtype is one that the chip has not.
        """
        if op.name == "tt.dot":
            element = op.operands[0].type.element
            kind = DOT_NAMES.get(element, element)
            if kind not in self.habits.dot_dtypes:
                raise TtirError(f"tl.dot of {kind}; it takes {', '.join(self.habits.dot_dtypes)}")
        double = any(value.type.element == "f64" for value in (*op.operands, *op.results))
        if double and self.habits.float64 == REFUSED:
            raise TtirError("float64 in a kernel: the chip has none")

    def after(self, op: Operation) -> Change | None:
        """What becomes of an operation's result; None where it is what it should be."""
        if len(op.results) != 1 or not op.name.startswith(("arith.", "math.", "tt.precise")):
            return None
        if op.name == "arith.constant":
            return None
        element, habits = op.type.element, self.habits
        if element == "i64" and habits.int64 != NATIVE:
            return _low_half
        if element == "f64" and habits.float64 == NARROW:
            return _as_single
        if element == "f32" and self._approximates(op.name):
            return nudged_array
        return None

    def _approximates(self, name: str) -> bool:
        if name == "arith.divf":
            return self.habits.approximate_division
        if name == "tt.precise_divf":
            return self.habits.approximate_div_rn
        return name in FUNCTIONS and self.habits.approximate_functions


def _low_half(x: Array) -> Array:
    return x.astype(np.int32).astype(np.int64)


def _as_single(x: Array) -> Array:
    return x.astype(np.float32).astype(np.float64)
