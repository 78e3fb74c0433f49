"""The ``torch.<device>`` of a simulated device: functions that every such module documents."""

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor

from glm5_hal.conformance.simulated.habits import Profile

KIND = 20
"""The number that torch has given to devices of other vendors."""
Index = int | str | torch.device | None


def device_module(profile: Profile, extension: Any) -> types.ModuleType:
    """The module, to be registered as ``torch.<device>``."""
    kind = profile.device
    module = types.ModuleType(f"torch.{kind}", f"Simulated {kind} devices.")

    def index_of(device: Index) -> int:
        if device is None:
            return int(torch.accelerator.current_device_index())
        if isinstance(device, int):
            return device
        chosen = torch.device(device)
        if chosen.type != kind:
            raise ValueError(f"expected a device {kind!r}, not {chosen}")
        return index_of(chosen.index)

    def count() -> int:
        return int(extension.devices())

    every = {
        **_devices(kind, profile, extension, index_of, count),
        **_streams(kind, index_of),
        **_random(extension, index_of, count),
        **_memory(extension, index_of),
    }
    vars(module).update(every)
    return module


def _devices(
    kind: str,
    profile: Profile,
    extension: Any,
    index_of: Callable[[Index], int],
    count: Callable[[], int],
) -> dict[str, Any]:
    @contextmanager
    def device(chosen: Index) -> Iterator[None]:
        before = index_of(None)
        torch.accelerator.set_device_index(index_of(chosen))
        try:
            yield
        finally:
            torch.accelerator.set_device_index(before)

    def get_device_properties(device: Index = None) -> types.SimpleNamespace:
        if not 0 <= index_of(device) < count():
            raise ValueError(f"no device {kind}:{index_of(device)}: there are {count()}")
        return types.SimpleNamespace(
            name=profile.name, total_memory=extension.memory(), **profile.properties
        )

    return {
        "is_available": lambda: count() > 0,
        "is_initialized": extension.used,
        "init": lambda: None,
        "is_bf16_supported": lambda: True,
        "device_count": count,
        "current_device": lambda: index_of(None),
        "set_device": lambda device: torch.accelerator.set_device_index(index_of(device)),
        "device": device,
        "get_device_properties": get_device_properties,
        "get_device_name": lambda device=None: get_device_properties(device).name,
        "get_device_capability": lambda device=None: profile.capability,
        "get_amp_supported_dtype": lambda: [torch.bfloat16, torch.float16],
        "_is_in_bad_fork": extension.forked,
    }


def _streams(kind: str, index_of: Callable[[Index], int]) -> dict[str, Any]:
    def place(device: Index) -> torch.device:
        return torch.device(kind, index_of(device))

    class Stream(torch.Stream):
        """A queue of a device."""

        def __new__(cls, device: Index = None, priority: int = 0) -> "Stream":
            return super().__new__(cls, device=place(device), priority=priority)

    class Event(torch.Event):
        """A mark in a stream."""

        def __new__(cls, enable_timing: bool = False, blocking: bool = False) -> "Event":
            return super().__new__(
                cls, device=place(None), enable_timing=enable_timing, blocking=blocking
            )

    def default_stream(device: Index = None) -> torch.Stream:
        chosen = place(device)
        return torch.Stream(stream_id=0, device_index=chosen.index, device_type=KIND)

    return {
        "Stream": Stream,
        "Event": Event,
        "stream": lambda stream: stream,  # a torch stream is its own context manager
        "current_stream": lambda device=None: torch.accelerator.current_stream(index_of(device)),
        "default_stream": default_stream,
        "set_stream": torch.accelerator.set_stream,
        "synchronize": lambda device=None: torch.accelerator.synchronize(index_of(device)),
    }


def _random(
    extension: Any, index_of: Callable[[Index], int], count: Callable[[], int]
) -> dict[str, Any]:
    def generator(device: Index = None) -> Generator:
        found: Generator = extension.generator(index_of(device))
        return found

    def manual_seed_all(seed: int) -> None:
        for index in range(count()):
            generator(index).manual_seed(int(seed))

    def set_rng_state(state: Tensor, device: Index = None) -> None:
        generator(device).set_state(state)

    return {
        "default_generators": tuple(generator(index) for index in range(count())),
        "manual_seed": lambda seed: generator().manual_seed(int(seed)),
        "manual_seed_all": manual_seed_all,
        "initial_seed": lambda: generator().initial_seed(),
        "get_rng_state": lambda device=None: generator(device).get_state(),
        "set_rng_state": set_rng_state,
    }


def _memory(extension: Any, index_of: Callable[[Index], int]) -> dict[str, Any]:
    def mem_get_info(device: Index = None) -> tuple[int, int]:
        return extension.memory() - extension.memory_used(index_of(device)), extension.memory()

    return {
        "empty_cache": lambda: None,
        "memory_allocated": lambda device=None: extension.memory_used(index_of(device)),
        "max_memory_allocated": lambda device=None: extension.memory_peak(index_of(device)),
        "reset_peak_memory_stats": lambda device=None: extension.reset_peak(index_of(device)),
        "mem_get_info": mem_get_info,
    }
