"""Kernels in Triton's language on a simulated device, with the habits of a vendor's compiler.

They are compiled to TTIR, as for any chip, and `ttir` executes that on the device's thread, on the
device's memory, in the order of the stream: late, as on a chip.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from glm5_hal.conformance.simulated import device
from glm5_hal.conformance.simulated.habits import TritonHabits
from glm5_hal.conformance.simulated.kernels import next_call, permutation
from glm5_hal.conformance.simulated.ttir.chip import Chip
from glm5_hal.conformance.simulated.ttir.errors import TtirError
from glm5_hal.conformance.simulated.ttir.execution import executable
from glm5_hal.conformance.simulated.ttir.front import bind
from glm5_hal.errors import HalError


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
        kernel: what `triton.jit` made.
        grid: programs along x, y and z; one to three numbers.
        arguments: of the kernel, in order; tensors lie on the simulated device.
        constants: compile-time values, arguments by name, and options of the launch, such as
            ``num_warps``.

    Raises:
        LaunchError: the grid or an option is beyond the chip's limits, the kernel is interpreted
            instead of compiled or does not compile for the chip, or tensors lie elsewhere.
    """
    profile = device.running()
    if profile is None:
        raise LaunchError("no device is simulated: call simulate() first")
    name = getattr(kernel, "__name__", repr(kernel))
    if type(kernel).__name__ != "JITFunction":
        raise LaunchError(
            f"{name} is no compiled kernel: unset TRITON_INTERPRET before anything imports triton"
        )
    habits = profile.triton
    _check(name, grid, constants, habits)
    place = _device_of(name, (*arguments, *constants.values()), profile.device)
    fused = habits.fuses and bool(constants.get("enable_fp_fusion", True))
    try:
        bound, passed = bind(kernel, arguments, constants)
        ready = executable(bound, Chip(habits, fused))
    except TtirError as error:
        raise LaunchError(str(error)) from error
    call = next_call() if habits.unordered_programs else None

    def run(*reached: Any) -> None:
        order = None if call is None else permutation(math.prod(grid), call).numpy()
        if habits.flushes_subnormals:
            torch.set_flush_denormal(True)
        try:
            ready.run(grid, reached, order)
        finally:
            torch.set_flush_denormal(False)

    device.submit(place, run, *passed, name=name)


def install() -> None:
    """Have ``kernel[grid](...)`` with tensors of the device do what `launch` does."""
    from triton.runtime.jit import JITFunction

    function: Any = JITFunction
    own = function.run

    def run(self: Any, *arguments: Any, grid: Any, warmup: bool, **constants: Any) -> Any:
        profile = device.running()
        values = (*arguments, *constants.values())
        if profile is None or warmup or not any(_is_on(value, profile.device) for value in values):
            return own(self, *arguments, grid=grid, warmup=warmup, **constants)
        named = dict(zip(self.arg_names, arguments, strict=False)) | constants
        launch(self, grid(named) if callable(grid) else grid, arguments, constants)
        return None

    function.run = run


def _is_on(value: Any, kind: str) -> bool:
    return isinstance(value, Tensor) and value.device.type == kind


def _check(
    name: str, grid: Sequence[int], constants: Mapping[str, Any], habits: TritonHabits
) -> None:
    for axis, count, most in zip("xyz", grid, habits.grid, strict=False):
        if count > most:
            raise LaunchError(f"{name}: a grid of {count} programs along {axis}, at most {most}")
    programs = math.prod(grid)
    if habits.programs is not None and programs > habits.programs:
        raise LaunchError(f"{name}: a grid of {programs} programs, at most {habits.programs}")
    warps = constants.get("num_warps")
    if warps is not None and habits.warps is not None and warps > habits.warps:
        raise LaunchError(f"{name}: {warps} warps a program, at most {habits.warps}")


def _device_of(name: str, values: Sequence[Any], kind: str) -> torch.device:
    """The one device of all tensors."""
    places = {value.device for value in values if isinstance(value, Tensor)}
    if len(places) == 1:
        (place,) = places
        if place.type == kind:
            return place
    found = ", ".join(sorted(map(str, places))) or "none"
    raise LaunchError(f"{name}: its tensors must lie on one device {kind!r}; found: {found}")
