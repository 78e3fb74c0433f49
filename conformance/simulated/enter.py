"""Putting a simulated device under a vendor's backend: what ``GLM5_HAL_SIMULATED=1`` does."""

import os
from collections.abc import Mapping

from glm5_hal import Backend
from glm5_hal.backends.torch_triton.surroundings import Process
from glm5_hal.conformance.errors import AskedError
from glm5_hal.conformance.simulated.device import simulate
from glm5_hal.conformance.simulated.habits import Profile, read_profile
from glm5_hal.errors import BackendUnavailable, SelectionError


class SimulatedProcess(Process):
    """This process as it would look beside the chip: its versions and modules, otherwise as it is.

    Args:
        profile: of the chip.
    """

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    @property
    def environment(self) -> Mapping[str, str]:
        return os.environ

    def installed(self, module: str) -> bool:
        return module == self._profile.module or super().installed(module)

    def imported(self, module: str) -> bool:
        """The stand-in of the vendor's module has read nothing yet."""
        return module != self._profile.module and super().imported(module)

    def attribute(self, path: str) -> object:
        version = path.removeprefix("torch.version.")
        if version != path and version in self._profile.versions:
            return self._profile.versions[version]
        return super().attribute(path)


def enter(backend: type[Backend]) -> None:
    """Start the vendor's simulated device and lay the backend on it.

    Raises:
        SelectionError: the backend is of no chip that can be simulated, or this process simulates
            another one already.
        BackendUnavailable: a setting is wrong with which the chip would show no device.
    """
    try:
        profile = read_profile(backend.name)
        backend.pretend(profile.device, SimulatedProcess(profile))
        for setting in backend.settings():
            if setting.blocks:
                raise BackendUnavailable(backend.name, str(setting))
        simulate(profile)
    except AskedError as error:
        raise SelectionError(f"GLM5_HAL_SIMULATED=1: {error}") from error
