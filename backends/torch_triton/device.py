"""The base of backends of real chips: a device of torch's, found, prepared, driven by Triton."""

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from glm5_hal.backends.described.torch_device import DescribedDeviceBackend
from glm5_hal.backends.torch_triton.backend import TorchTritonBackend, missing_triton
from glm5_hal.backends.torch_triton.descriptor import Descriptor, read_descriptor
from glm5_hal.errors import BackendUnavailable
from glm5_hal.kernels.triton.target import Target, read_target

PORTABLE = ("glm5_hal.kernels.triton", "portable.yaml")


class TorchDeviceBackend(DescribedDeviceBackend, TorchTritonBackend):
    """What backend.yaml beside a subclass says, done: detection, settings, streams, graphs, tiles.

    A subclass gives `name` and `_package`, and overrides what its vendor does differently.
    """

    name = "torch-device"
    capabilities = TorchTritonBackend.capabilities

    def __init__(self, index: int = 0) -> None:
        super().__init__(index)
        self._check_tiles()
        self._target = replace(self._target, launcher=self._launch)

    @classmethod
    @functools.cache
    def _descriptor(cls) -> Descriptor:
        return read_descriptor(cls._package)

    @classmethod
    def excluded(cls) -> str | None:
        return super().excluded() or missing_triton()

    # --- tiles ---

    @classmethod
    @functools.cache
    def _targets(cls) -> dict[str, Target]:
        file = cls._tile_file(0)
        own = read_target(cls._package, file)
        portable = read_target(*PORTABLE)
        # the chip's limits hold for any tiles
        return {
            file.removesuffix(".yaml"): own,
            "portable": replace(own, name=portable.name, tiles=portable.tiles),
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

    # --- launches ---

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
