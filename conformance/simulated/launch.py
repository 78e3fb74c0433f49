"""Kernels in Triton's language on a simulated device, with the habits of a vendor's compiler.

Triton's interpreter runs them on the device's thread, on the device's memory, in the order of the
stream: late, as on a chip. For the time of a launch its builder is given the habits. The
interpreter has state of its own, so one launch runs at a time.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glm5_hal.conformance.simulated import device
from glm5_hal.conformance.simulated.habits import NARROW, NATIVE, REFUSED, TritonHabits
from glm5_hal.conformance.simulated.kernels import next_call, permutation
from glm5_hal.conformance.simulated.rounding import nudged_array, rounded_array
from glm5_hal.errors import HalError

_ONE_AT_A_TIME = threading.Lock()

TF32_BITS = 10
_TORCH_NAMES = {
    "int8": "int8",
    "uint8": "uint8",
    "fp16": "float16",
    "bf16": "bfloat16",
    "fp32": "float32",
    "fp64": "float64",
}
_FUNCTIONS = ("exp", "exp2", "log", "log2", "sin", "cos", "sqrt", "rsqrt", "erf")


class LaunchError(HalError, RuntimeError):
    """A launch that the simulated chip refuses."""


def launch(
    kernel: Any,
    grid: Sequence[int],
    arguments: Sequence[Any],
    constants: Mapping[str, Any],
) -> None:
    """Run a kernel on the device of its tensors; returns before it has run.

    Args:
        kernel: what `triton.jit` made, with ``TRITON_INTERPRET=1``.
        grid: programs along x, y and z; one to three numbers.
        arguments: of the kernel, in order; tensors lie on the simulated device.
        constants: compile-time values and options of the launch, such as ``num_warps``.

    Raises:
        LaunchError: the grid or an option is beyond the chip's limits, the kernel is compiled
            instead of interpreted, or tensors lie elsewhere.
    """
    profile = device.running()
    if profile is None:
        raise LaunchError("no device is simulated: call simulate() first")
    name = getattr(kernel, "__name__", repr(kernel))
    if type(kernel).__name__ != "InterpretedFunction":
        raise LaunchError(
            f"{name} is compiled: set TRITON_INTERPRET=1 before anything imports triton"
        )
    habits = profile.triton
    _check(name, grid, constants, habits)
    place = _device_of(name, [*arguments, *constants.values()], profile.device)
    inside = {key: device.reached(value) for key, value in constants.items()}
    call = next_call() if habits.unordered_programs else None
    fused = habits.fuses and constants.get("enable_fp_fusion", True)

    def run(*reached: Any) -> None:
        with _ONE_AT_A_TIME, _chip(habits, tuple(grid), call, fused):
            kernel[tuple(grid)](*reached, **inside)

    device.submit(place, run, *arguments, name=name)


def install() -> None:
    """Have ``kernel[grid](...)`` with tensors of the device do what `launch` does."""
    from triton.runtime import interpreter

    from glm5_hal.backends.triton_interpret.haste import hasten

    function: Any = interpreter.InterpretedFunction
    own = function.run

    def run(self: Any, *arguments: Any, grid: Any, warmup: bool, **constants: Any) -> None:
        profile = device.running()
        values = (*arguments, *constants.values())
        if profile is None or warmup or not any(_is_on(value, profile.device) for value in values):
            own(self, *arguments, grid=grid, warmup=warmup, **constants)
            return
        named = dict(zip(self.arg_names, arguments, strict=False)) | constants
        launch(self, grid(named) if callable(grid) else grid, arguments, constants)

    function.run = run
    hasten()


def _is_on(value: Any, kind: str) -> bool:
    return isinstance(value, Tensor) and value.device.type == kind


def _check(
    name: str, grid: Sequence[int], constants: Mapping[str, Any], habits: TritonHabits
) -> None:
    for axis, count, most in zip("xyz", grid, habits.grid, strict=False):
        if count > most:
            raise LaunchError(f"{name}: a grid of {count} programs along {axis}, at most {most}")
    programs = int(np.prod(grid, dtype=np.int64))
    if habits.programs is not None and programs > habits.programs:
        raise LaunchError(f"{name}: a grid of {programs} programs, at most {habits.programs}")
    warps = constants.get("num_warps")
    if warps is not None and habits.warps is not None and warps > habits.warps:
        raise LaunchError(f"{name}: {warps} warps a program, at most {habits.warps}")


def _device_of(name: str, values: Sequence[Any], kind: str) -> torch.device:
    """The one device of all tensors."""
    places = {value.device for value in values if isinstance(value, Tensor)}
    if len(places) != 1 or next(iter(places)).type != kind:
        found = ", ".join(sorted(map(str, places))) or "none"
        raise LaunchError(f"{name}: its tensors must lie on one device {kind!r}; found: {found}")
    return places.pop()


@contextmanager
def _chip(
    habits: TritonHabits, grid: tuple[int, ...], call: int | None, fused: bool
) -> Iterator[None]:
    """Give the interpreter's builder the habits, on this thread."""
    from triton.runtime import interpreter

    builder: Any = interpreter.interpreter_builder
    options = builder.options
    changes = _Changes(interpreter, builder, habits)
    changes.dots()
    changes.narrow()
    if fused:
        changes.fuse()
    changes.approximate()
    if call is not None:
        changes.shuffle(grid, call)
    builder.options = replace(
        options,
        default_dot_input_precision=habits.default_precision,
        allowed_dot_input_precisions=habits.precisions,
    )
    if habits.flushes_subnormals:
        torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        builder.options = options
        changes.undo()


class _Changes:
    """Methods put in the place of the builder's own."""

    def __init__(self, interpreter: Any, builder: Any, habits: TritonHabits) -> None:
        self.interpreter = interpreter
        self.builder = builder
        self.habits = habits
        self.changed: list[str] = []

    def put(self, name: str, method: Callable[..., Any]) -> None:
        """An attribute of the instance hides the method of its class."""
        setattr(self.builder, name, method)
        self.changed.append(name)

    def undo(self) -> None:
        for name in set(self.changed):
            delattr(self.builder, name)

    def after(self, name: str, change: Callable[[Any], Any]) -> None:
        """Change the data of a method's result."""
        own = getattr(self.builder, name)

        def method(*operands: Any) -> Any:
            made = own(*operands)
            made.data = change(made.data)
            return made

        self.put(name, method)

    def dots(self) -> None:
        """Operands that the matrix unit takes, their precision, and what integers go through."""
        habits, interpreter = self.habits, self.interpreter
        import triton.language as tl

        def values(handle: Any) -> np.ndarray:
            if handle.dtype.scalar == tl.bfloat16:
                wide = interpreter._convert_float(handle.data, tl.bfloat16, tl.float32, None)
                return np.asarray(wide.view(np.float32))
            return np.asarray(handle.data)

        def create_dot(a: Any, b: Any, d: Any, precision: Any, imprecise: Any) -> Any:
            kind = _TORCH_NAMES.get(a.dtype.scalar.name, a.dtype.scalar.name)
            if kind not in habits.dot_dtypes:
                raise LaunchError(f"tl.dot of {kind}; it takes {', '.join(habits.dot_dtypes)}")
            left, right, total = values(a), values(b), d.data
            if kind == "float32" and "TF32" in str(precision) and "x3" not in str(precision):
                left, right = rounded_array(left, TF32_BITS), rounded_array(right, TF32_BITS)
            if kind == "int8" and habits.int8_through_float32:
                left, right = left.astype(np.float32), right.astype(np.float32)
                made = np.matmul(left, right) + total.astype(np.float32)
            else:
                made = np.matmul(left, right, dtype=total.dtype) + total
            return interpreter.TensorHandle(made.astype(total.dtype), d.dtype.scalar)

        self.put("create_dot", create_dot)

    def narrow(self) -> None:
        """64 bits of which 32 are there."""
        habits = self.habits

        def change(data: np.ndarray) -> np.ndarray:
            if habits.int64 == NARROW and data.dtype == np.int64:
                return data.astype(np.int32).astype(np.int64)
            if habits.int64 == NARROW and data.dtype == np.uint64:
                return data.astype(np.uint32).astype(np.uint64)
            if data.dtype == np.float64:
                if habits.float64 == REFUSED:
                    raise LaunchError("float64 in a kernel: the chip has none")
                if habits.float64 == NARROW:
                    return data.astype(np.float32).astype(np.float64)
            return data

        if habits.int64 != NATIVE or habits.float64 != NATIVE:
            for name in ("binary_op", "ternary_op", "unary_op", "cast_impl"):
                self.after(name, change)

    def fuse(self) -> None:
        """Keep the factors of a product, and round only what is added to it."""
        multiply, plus, minus = (
            getattr(self.builder, f"create_{name}") for name in ("fmul", "fadd", "fsub")
        )

        def create_fmul(lhs: Any, rhs: Any) -> Any:
            made = multiply(lhs, rhs)
            if made.data.dtype == np.float32:
                made.set_attr("factors", (lhs.data, rhs.data))
            return made

        def contracted(lhs: Any, rhs: Any, sign: int, otherwise: Callable[..., Any]) -> Any:
            made = otherwise(lhs, rhs)
            for product, other, signs in ((lhs, rhs, (1, sign)), (rhs, lhs, (sign, 1))):
                if "factors" in product.attr:
                    a, b = (one.astype(np.float64) for one in product.attr["factors"])
                    exact = signs[0] * (a * b) + signs[1] * other.data.astype(np.float64)
                    made.data = exact.astype(np.float32)
                    break
            return made

        self.put("create_fmul", create_fmul)
        self.put("create_fadd", lambda lhs, rhs: contracted(lhs, rhs, 1, plus))
        self.put("create_fsub", lambda lhs, rhs: contracted(lhs, rhs, -1, minus))

    def approximate(self) -> None:
        """Results that may be off by one place."""

        def change(data: np.ndarray) -> np.ndarray:
            return nudged_array(data) if data.dtype == np.float32 else data

        if self.habits.approximate_division:
            self.after("create_fdiv", change)
        if self.habits.approximate_div_rn:
            self.after("create_precise_divf", change)
        if self.habits.approximate_functions:
            for name in _FUNCTIONS:
                self.after(f"create_{name}", change)

    def shuffle(self, grid: tuple[int, ...], call: int) -> None:
        """Programs in another order."""
        whole = (*grid, 1, 1)[:3]
        order = permutation(int(np.prod(whole)), call).numpy()
        own = self.builder.set_grid_idx

        def set_grid_idx(x: int, y: int, z: int) -> None:
            chosen = order[(x * whole[1] + y) * whole[2] + z]
            own(*(int(place) for place in np.unravel_index(chosen, whole)))

        self.put("set_grid_idx", set_grid_idx)
