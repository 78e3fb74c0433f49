"""The Triton kernels on CPU tensors, run by Triton's interpreter: slow, and the same code."""

import functools
import os
import sys

import torch

from glm5_hal import Backend, Numerics
from glm5_hal.backends.torch_triton.backend import TorchTritonBackend, missing_triton
from glm5_hal.errors import BackendUnavailable
from glm5_hal.kernels.triton.target import Target, read_target

INTERPRET = "TRITON_INTERPRET"


def _compiled_before() -> bool:
    """Whether triton was imported for compiling: what it decorated then is not interpreted."""
    standard = sys.modules.get("triton.language.standard")
    return standard is not None and type(standard.cdiv).__name__ != "InterpretedFunction"


@functools.cache
def _hasten_once() -> None:
    from glm5_hal.backends.triton_interpret.haste import hasten

    hasten()


class TritonInterpretBackend(TorchTritonBackend):
    """Every kernel as on a chip, without one.

    Modes are tables of tiles: large ones, since the interpreter takes as long for a small tile as
    for a large one, and small ones, which cut everything several times.
    """

    name = "triton-interpret"

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        reason = missing_triton()
        if reason is not None:
            return False, reason
        if _compiled_before():
            return False, (
                f"triton was imported before {INTERPRET}=1 was set; set it in the environment, "
                "or open this backend before anything imports triton"
            )
        return True, "interpreted on the CPU: slow, for tests"

    @classmethod
    def in_profile(cls, numerics: Numerics) -> type[Backend]:
        available, reason = cls.is_available()
        if not available:
            raise BackendUnavailable(cls.name, reason)
        os.environ[INTERPRET] = "1"
        _hasten_once()
        return super().in_profile(numerics)

    @classmethod
    @functools.cache
    def _targets(cls) -> dict[str, Target]:
        return {mode: read_target(__package__, f"{mode}.yaml") for mode in ("large", "small")}

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")
