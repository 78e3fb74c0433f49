"""The definitions as a backend, one class a profile: slow, and right by definition."""

import functools

import torch

from glm5_hal import Backend, Capabilities, Numerics, Runtime
from glm5_hal.definitions import defined
from glm5_hal.plan import make_plan


class _OnHost(Backend):
    name = "reference"
    capabilities = Capabilities(
        dtypes=frozenset({torch.float32, torch.bfloat16}), profiles=frozenset(Numerics)
    )

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        return True, "plain torch"

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


ReferenceBackend = defined(_OnHost, "ReferenceBackend", Numerics.FAST)
"""float64 inside. Not registered: nobody should run a model on it by accident."""

ExactReferenceBackend = defined(_OnHost, "ExactReferenceBackend", Numerics.EXACT)
"""What the exact profile's bytes are."""


@functools.cache
def reference_runtime(numerics: Numerics = Numerics.FAST) -> Runtime:
    """A runtime on the definitions."""
    exact = numerics is Numerics.EXACT
    backend = ExactReferenceBackend if exact else ReferenceBackend
    return Runtime(make_plan(backend, 0, numerics), backend())
