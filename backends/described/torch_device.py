"""The base of backends of chips that are a device of torch's: streams, graphs, several devices."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch

from glm5_hal.backends.described.backend import DescribedBackend
from glm5_hal.backends.torch_triton.descriptor import DeviceDescription, read_description
from glm5_hal.backends.torch_triton.surroundings import Surroundings


class DescribedDeviceBackend(DescribedBackend):
    """A device found, prepared and driven as backend.yaml says; the ops are the subclass's."""

    name = "described-device"

    @classmethod
    @functools.cache
    def _descriptor(cls) -> DeviceDescription:
        return read_description(DeviceDescription, cls._package)

    @classmethod
    def pretend(cls, device_type: str, around: Surroundings) -> None:
        cls._pretended = device_type, around

    @classmethod
    def _device_type(cls) -> str:
        return cls._descriptor().device_type if cls._pretended is None else cls._pretended[0]

    @classmethod
    def _found(cls) -> str:
        count = cls.device_count()
        return f"{count} {cls._descriptor().vendor} device{'s' * (count != 1)}"

    @classmethod
    def _absent(cls) -> str | None:
        if cls._namespace().is_available():
            return None
        return f"no {cls._descriptor().vendor} device is visible{cls._hidden(cls._around())}"

    @classmethod
    def _hidden(cls, around: Surroundings) -> str:
        """What restricts the visible devices."""
        for name in cls._descriptor().visible.variables:
            if name in around.environment:
                return f" ({name}={around.environment[name]})"
        return ""

    @classmethod
    def _namespace(cls) -> Any:
        """torch's module of the device, such as ``torch.cuda``."""
        return getattr(torch, cls._device_type())

    @classmethod
    def device_count(cls) -> int:
        return int(cls._namespace().device_count())

    @classmethod
    def _initialized(cls, around: Surroundings) -> bool:
        asked = around.attribute(f"torch.{cls._device_type()}.is_initialized")
        return bool(asked()) if callable(asked) else False

    @property
    def device(self) -> torch.device:
        kind = self._device_type()
        return torch.device(kind) if kind == "cpu" else torch.device(kind, self.index)

    def synchronize(self) -> None:
        self._namespace().synchronize(self.index)

    def record(self, step: Callable[[], None]) -> Callable[[], None] | None:
        graphs = self._descriptor().graphs
        if graphs is None or self._pretended is not None:  # a simulated device records nothing
            return None
        there = self._namespace()
        with there.device(self.index):
            aside, here = there.Stream(), there.current_stream()
            aside.wait_stream(here)
            with there.stream(aside):
                step()  # compiles what is not compiled, which cannot be recorded
            here.wait_stream(aside)
            graph = getattr(there, graphs)()
            with there.graph(graph):
                step()
        replay: Callable[[], None] = graph.replay
        return replay

    @classmethod
    def versions(cls) -> dict[str, str]:
        found = {**super().versions(), "device": cls._device_name()}
        return found | {module: _version(module) for module in cls.imports()}

    @classmethod
    def _device_name(cls) -> str:
        named = getattr(cls._namespace(), "get_device_name", None)
        return cls._device_type() if named is None else str(named(0))


def _version(module: str) -> str:
    return str(getattr(importlib.import_module(module), "__version__", "unknown"))
