"""The base of backends of real chips: a device of torch's, found, prepared and driven."""

import functools
import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch

from glm5_hal import Backend, Numerics
from glm5_hal.backends.torch_triton.backend import TorchTritonBackend, missing_triton
from glm5_hal.backends.torch_triton.descriptor import Descriptor, read_descriptor
from glm5_hal.backends.torch_triton.surroundings import Process, Surroundings
from glm5_hal.errors import BackendUnavailable
from glm5_hal.kernels.triton.target import Target, read_target
from glm5_hal.settings import Setting

PORTABLE = ("glm5_hal.kernels.triton", "portable.yaml")


class TorchDeviceBackend(TorchTritonBackend):
    """What backend.yaml beside a subclass says, done: detection, settings, streams, graphs.

    A subclass gives `name` and `_package`, and overrides what its vendor does differently.
    """

    name = "torch-device"
    _package: ClassVar[str]
    """Where backend.yaml and the tables of tiles lie."""
    _pretended: ClassVar[tuple[str, Surroundings] | None] = None
    """Device type and surroundings of a simulated device."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.collectives = cls._descriptor().collectives

    def __init__(self, index: int = 0) -> None:
        type(self)._prepare()
        super().__init__(index)
        self._check_tiles()
        self._target = replace(self._target, launcher=self._launch)

    # --- detection ---

    @classmethod
    @functools.cache
    def _descriptor(cls) -> Descriptor:
        return read_descriptor(cls._package)

    @classmethod
    def pretend(cls, device_type: str, around: Surroundings) -> None:
        cls._pretended = device_type, around

    @classmethod
    def _around(cls) -> Surroundings:
        return Process() if cls._pretended is None else cls._pretended[1]

    @classmethod
    def _device_type(cls) -> str:
        return cls._descriptor().device_type if cls._pretended is None else cls._pretended[0]

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        reason = cls._obstacle()
        if reason is not None:
            return False, reason
        count = cls.device_count()
        return True, f"{count} {cls._descriptor().vendor} device{'s' * (count != 1)}"

    @classmethod
    def excluded(cls) -> str | None:
        around = cls._around()
        broken = (rule.broken(around) for rule in cls._descriptor().rules)
        return next(filter(None, broken), None) or missing_triton()

    @classmethod
    def imports(cls) -> tuple[str, ...]:
        return cls._descriptor().imports

    @classmethod
    def _obstacle(cls) -> str | None:
        """The first reason why it cannot run here."""
        about = cls._descriptor()
        around = cls._around()
        if excluded := cls.excluded():
            return excluded
        for module in about.imports:
            try:
                importlib.import_module(module)
            except (ImportError, OSError, RuntimeError) as error:
                return f"importing {module} failed: {error}"
        if not cls._namespace().is_available():
            return f"no {about.vendor} device is visible{cls._hidden(around)}"
        for setting in cls.settings():
            if setting.blocks:
                return str(setting)
        return None

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

    # --- settings ---

    @classmethod
    def settings(cls) -> tuple[Setting, ...]:
        around = cls._around()
        return cls._descriptor().settings(around, cls._initialized(around))

    @classmethod
    def _initialized(cls, around: Surroundings) -> bool:
        """Whether the device has been used, so that what its libraries read has been read."""
        asked = around.attribute(f"torch.{cls._device_type()}.is_initialized")
        return bool(asked()) if callable(asked) else False

    @classmethod
    def _prepare(cls) -> None:
        """Set what must be set before the device is used.

        Raises:
            BackendUnavailable: it cannot be used, or a setting can no longer be made.
        """
        reason = cls._obstacle()
        if reason is not None:
            raise BackendUnavailable(cls.name, reason)
        cls._set_variables()
        for flag in cls._descriptor().flags:
            path, _, name = flag.flag.rpartition(".")
            owner = cls._around().attribute(path)
            if owner is None:
                raise BackendUnavailable(
                    cls.name, f"{path} does not exist in torch {torch.__version__}"
                )
            setattr(owner, name, flag.value)

    @classmethod
    def _set_variables(cls) -> None:
        for variable in cls._descriptor().variables:
            os.environ.setdefault(variable.variable, variable.accepts[0])

    @classmethod
    def in_profile(cls, numerics: Numerics) -> type[Backend]:
        cls._prepare()
        return super().in_profile(numerics)

    # --- tiles ---

    @classmethod
    @functools.cache
    def _targets(cls) -> dict[str, Target]:
        file = cls._tile_file(0)
        return {
            file.removesuffix(".yaml"): read_target(cls._package, file),
            "portable": read_target(*PORTABLE),
        }

    @classmethod
    def _tile_file(cls, index: int) -> str:
        try:
            return cls._descriptor().tile_file(cls._capability(index))
        except LookupError as error:
            found = cls._capability(index)
            raise BackendUnavailable(
                cls.name, f"device {index} has capability {found}; {error}"
            ) from error

    @classmethod
    def _capability(cls, index: int) -> tuple[int, int] | None:
        """(major, minor) of a device; None where the vendor has no such number."""
        asked = getattr(cls._namespace(), "get_device_capability", None)
        found = None if asked is None else asked(index)
        return None if found is None else (int(found[0]), int(found[1]))

    def _check_tiles(self) -> None:
        """The plan names the tiles of device 0: another kind of device needs a plan of its own."""
        first, mine = self._tile_file(0), self._tile_file(self.index)
        if first != mine:
            names = self._descriptor().visible.variables
            raise BackendUnavailable(
                self.name,
                f"device {self.index} is of another kind than device 0 (tiles {mine}, {first}); "
                f"make it the only visible one: {names[0] if names else 'see the README'}",
            )

    # --- device ---

    @property
    def device(self) -> torch.device:
        return torch.device(self._device_type(), self.index)

    def synchronize(self) -> None:
        self._namespace().synchronize(self.index)

    def _launch(
        self,
        kernel: Any,
        programs: int,
        arguments: tuple[Any, ...],
        constants: Mapping[str, Any],
    ) -> None:
        """Run a kernel on this device and its current stream, whatever device is current."""
        with self._namespace().device(self.index):
            kernel[(programs,)](*arguments, **constants)

    def use_mode(self, mode: str) -> None:
        super().use_mode(mode)
        self._target = replace(self._target, launcher=self._launch)

    def record(self, step: Callable[[], None]) -> Callable[[], None] | None:
        graphs = self._descriptor().graphs
        if graphs is None:
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
        about = cls._descriptor()
        found = {**super().versions(), "device": cls._namespace().get_device_name(0)}
        return found | {module: _version(module) for module in about.imports}


def _version(module: str) -> str:
    return str(getattr(importlib.import_module(module), "__version__", "unknown"))
