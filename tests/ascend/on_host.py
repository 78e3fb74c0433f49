"""The backend on a chip that is the CPU: its kernels interpreted, its functions stood in for."""

import importlib.util
import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from glm5_hal.backends.torch_triton.backend import missing_triton

# needs the extra [triton], which `nox` has; the reason names what is missing
if missing := missing_triton():
    pytest.skip(missing, allow_module_level=True)
# stand-ins for what is there would test the stand-ins
if "torch_npu" not in sys.modules and importlib.util.find_spec("torch_npu"):
    pytest.skip("torch_npu is installed: its functions are there", allow_module_level=True)
import torch_npu_functions  # noqa: F401 - from here on the functions are there

from glm5_hal import Numerics, Runtime
from glm5_hal.backends.ascend.backend import AscendBackend
from glm5_hal.backends.ascend.fused import VARIABLE
from glm5_hal.kernels.triton.target import Target, read_target
from glm5_hal.plan import make_plan
from glm5_hal.registry import load

TORCH_NPU = ModuleType("torch_npu")
"""Importing it does nothing more: the functions are torch's."""
TORCH_NPU.__dict__["__version__"] = "stand-in"


class OnHost(AscendBackend):
    """Everything of the backend but its device."""

    name = "ascend"
    _chip = "Ascend910B3"

    @classmethod
    def _prepare(cls) -> None:
        """There is nothing to set."""

    @classmethod
    def _targets(cls) -> dict[str, Target]:
        return {"large": read_target("glm5_hal.backends.triton_interpret", "large.yaml")}

    def _check_tiles(self) -> None:
        """One device is of one kind."""

    @classmethod
    def _namespace(cls) -> Any:
        return SimpleNamespace(
            device=lambda index: nullcontext(),
            get_device_name=lambda index: cls._chip,
            synchronize=lambda index: None,
        )

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


def chip(name: str) -> type[OnHost]:
    """The backend on another device, as a class of its own."""
    return type("OnHost", (OnHost,), {"_chip": name})


def runtime(
    asked: str | None,
    numerics: Numerics = Numerics.FAST,
    backend: type[OnHost] = OnHost,
) -> Runtime:
    """A runtime for a value of GLM5_HAL_ASCEND_FUSED."""
    load("triton-interpret").in_profile(numerics)  # from here on kernels are interpreted
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch_npu", TORCH_NPU)
        patch.delenv(VARIABLE.name, raising=False)
        if asked is not None:
            patch.setenv(VARIABLE.name, asked)
        used = backend.in_profile(numerics)
        return Runtime(make_plan(used, 0, numerics), used())
