"""The base of backends with a backend.yaml: detection and settings as it says; tensors on the host.

A chip whose runtime torch does not know keeps its activations in host memory, and whatever it wants
of weights and caches on the device: it overrides `prepare_weight` and `allocate_cache`.
"""

import functools
import importlib
import os
from typing import Any, ClassVar

import torch

from glm5_hal import Backend, Capabilities, Numerics
from glm5_hal.backends.torch_triton.descriptor import Description, read_description
from glm5_hal.backends.torch_triton.surroundings import Process, Surroundings
from glm5_hal.errors import BackendUnavailable
from glm5_hal.settings import Setting


class DescribedBackend(Backend):
    """What backend.yaml beside a subclass says, done: detection and settings.

    A subclass gives `name` and `_package`, and overrides what its vendor does differently.
    """

    name = "described"
    capabilities = Capabilities()

    _package: ClassVar[str]
    """Where backend.yaml lies."""
    _pretended: ClassVar[tuple[str, Surroundings] | None] = None
    """Device type and surroundings of a simulated device."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "_package"):  # not a base of others
            cls.collectives = cls._descriptor().collectives

    def __init__(self, index: int = 0) -> None:
        type(self)._prepare()
        super().__init__(index)

    @classmethod
    @functools.cache
    def _descriptor(cls) -> Description:
        return read_description(Description, cls._package)

    @classmethod
    def _around(cls) -> Surroundings:
        return Process() if cls._pretended is None else cls._pretended[1]

    # --- detection ---

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        reason = cls._obstacle()
        return (True, cls._found()) if reason is None else (False, reason)

    @classmethod
    def _found(cls) -> str:
        """What is there, in a few words."""
        return f"{cls._descriptor().vendor}, tensors in host memory"

    @classmethod
    def excluded(cls) -> str | None:
        around = cls._around()
        broken = (rule.broken(around) for rule in cls._descriptor().rules)
        return next(filter(None, broken), None)

    @classmethod
    def imports(cls) -> tuple[str, ...]:
        return cls._descriptor().imports

    @classmethod
    def _obstacle(cls) -> str | None:
        """The first reason why it cannot run here."""
        if excluded := cls.excluded():
            return excluded
        for module in cls.imports():
            try:
                importlib.import_module(module)
            except (ImportError, OSError, RuntimeError) as error:
                return f"importing {module} failed: {error}"
        if absent := cls._absent():
            return absent
        for setting in cls.settings():
            if setting.blocks:
                return str(setting)
        return None

    @classmethod
    def _absent(cls) -> str | None:
        """Why there is no device, asked when the vendor's modules have been imported."""
        return None

    # --- settings ---

    @classmethod
    def settings(cls) -> tuple[Setting, ...]:
        around = cls._around()
        return cls._descriptor().settings(around, cls._initialized(around))

    @classmethod
    def _initialized(cls, around: Surroundings) -> bool:
        """Whether the device has been used, so that what its libraries read has been read."""
        return False

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

    # --- device ---

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")
