"""Starting a simulated device: one name, one machine, one set of habits in a process."""

import atexit
import gc
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType, ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.backend_registration import (
    generate_methods_for_privateuse1_backend,
    rename_privateuse1_backend,
)

from glm5_hal.conformance.errors import AskedError
from glm5_hal.conformance.simulated import build, kernels
from glm5_hal.conformance.simulated.habits import NARROW, REFUSED, Habits, Profile, TritonHabits
from glm5_hal.conformance.simulated.module import device_module
from glm5_hal.conformance.simulated.switch import see_environment

LATENCY = 50
"""Microseconds from submitting to running, unless another is asked for."""

_running: Profile | None = None


def running() -> Profile | None:
    """What this process simulates; None where nothing is."""
    return _running


def simulate(profile: Profile | str, *, devices: int | None = None) -> ModuleType:
    """Start the devices of a profile, or well-behaved ones of this name.

    Afterwards `torch.<device>` is there, with the vendor's flags; tensors can be made on
    ``<device>:0``; and where triton is installed, its kernels can be launched there. A second call
    with the same profile answers the same module.

    Args:
        profile: the device; a name alone has no habits.
        devices: how many; default: the profile's.

    Raises:
        AskedError: the process simulates another device already.
        BuildError: the extension cannot be built.
    """
    global _running
    if isinstance(profile, str):
        profile = Profile(profile, f"simulated {profile}")
    if devices is not None:
        profile = replace(profile, devices=devices)
    if _running is not None:
        if profile != _running:
            raise AskedError(
                f"this process simulates {_running.device!r} already, as {_running.name}; "
                f"torch takes one name a process: start another one for {profile.device!r}"
            )
        return sys.modules[f"torch.{profile.device}"]
    extension = build.load()
    extension.start(visible_devices(profile, os.environ), profile.memory)
    extension.set_latency(LATENCY)
    rename_privateuse1_backend(profile.device)
    module = device_module(profile, extension)
    torch._register_device_module(profile.device, module)
    generate_methods_for_privateuse1_backend()
    if profile.module is not None:
        sys.modules[profile.module] = _vendor_module(profile.module, module)
    for path, value in profile.flags.items():
        _set_flag(path, value)
    _running = profile
    atexit.register(_finish)  # what is submitted may be Python, which ends before the threads do
    extension.on_first_use(see_environment)
    kernels.install(extension)
    if importlib.util.find_spec("triton") is not None:
        _take_launches()
    _apply(profile.habits)
    gc.freeze()  # launches make garbage: looking for it in all of torch, too, takes its time
    gc.set_threshold(100_000, *gc.get_threshold()[1:])  # kernels are trees, and made by hundreds
    return module


def set_habits(habits: Habits, triton: TritonHabits | None = None) -> None:
    """Change the habits from the next op on; what is submitted already keeps its own.

    Variables of the environment are read again.
    """
    global _running
    see_environment()
    profile = _started()
    _running = replace(profile, habits=habits, triton=triton or profile.triton)
    _apply(habits)


def visible_devices(profile: Profile, environment: Mapping[str, str]) -> int:
    """How many devices the variable of the vendor leaves; all of them where it is not set."""
    listed = environment.get(profile.visible) if profile.visible is not None else None
    if listed is None:
        return profile.devices
    wanted = [entry.strip() for entry in listed.split(",") if entry.strip()]
    if not all(entry.isdigit() and int(entry) < profile.devices for entry in wanted):
        return 0
    numbers = [int(entry) for entry in wanted]
    if len(set(numbers)) < len(numbers) or (profile.ascending and numbers != sorted(numbers)):
        return 0
    return len(numbers)


def set_latency(microseconds: int) -> None:
    """How long after it was submitted a task may start."""
    _started()
    build.load().set_latency(microseconds)


@contextmanager
def held() -> Iterator[None]:
    """As late as a device can be: inside, nothing runs before somebody waits for it."""
    _started()
    extension = build.load()
    before = extension.held()
    extension.hold(True)
    try:
        yield
    finally:
        extension.hold(before)


def submit(
    device: torch.device, function: Callable[..., object], *arguments: Any, name: str = "kernel"
) -> None:
    """Run ``function(*arguments)`` on the device's thread, in the order of its current stream.

    Tensors of the device reach the function as tensors of the host on the same memory; nobody
    else may read them. What it raises is raised by the next wait for the stream.
    """
    kind = _started().device
    extension = build.load()
    index = torch.accelerator.current_device_index() if device.index is None else device.index
    inside = [
        extension.reached(value)
        if isinstance(value, Tensor) and value.device.type == kind
        else value
        for value in arguments
    ]
    extension.submit(index, name, lambda: function(*inside))


def waited() -> Mapping[str, int]:
    """Ops that could not be late, and how often the host waited for each."""
    _started()
    return MappingProxyType(build.load().waited())


def _started() -> Profile:
    if _running is None:
        raise AskedError("no device is simulated: call simulate() first")
    return _running


def _finish() -> None:
    """Run what is submitted still."""
    for index in range(torch.accelerator.device_count()):
        torch.accelerator.synchronize(index)


def _take_launches() -> None:
    """Have kernels in Triton's language run on the device when they are launched there.

    Where triton was imported for interpreting before, a launch will say so.
    """
    from glm5_hal.conformance.simulated import launch

    launch.install()


def _apply(habits: Habits) -> None:
    kernels.use(habits)
    build.load().set_arithmetic(
        habits.flushes_subnormals,
        habits.int64 == NARROW,
        habits.float64 == NARROW,
        habits.float64 == REFUSED,
    )


def _vendor_module(name: str, module: ModuleType) -> ModuleType:
    """What ``import <name>`` gives: the vendor's package, with the device module below."""
    package = ModuleType(name, "Stand-in of a vendor's package; nothing here is the vendor's.")
    package.__dict__[module.__name__.rpartition(".")[2]] = module
    package.__dict__["__version__"] = "simulated"
    return package


def _set_flag(path: str, value: object) -> None:
    """Make ``torch.a.b.c`` exist, with namespaces where there are none."""
    first, *parts, last = path.split(".")
    if first != "torch":
        raise AskedError(f"flag {path!r} does not begin with torch.")
    place: Any = torch
    for part in parts:
        if not hasattr(place, part):
            setattr(place, part, ModuleType(part))
        place = getattr(place, part)
    setattr(place, last, value)
