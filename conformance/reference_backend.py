"""The references as a backend: every op answers with its definition, in float64 inside."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

from glm5_hal import Backend, Capabilities, Numerics, Runtime
from glm5_hal.contract import OPS
from glm5_hal.plan import make_plan


class _OnHost(Backend):
    name = "reference"
    capabilities = Capabilities(dtypes=frozenset({torch.float32, torch.bfloat16}))

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        return True, "plain torch"

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


def _method(name: str) -> Callable[..., Any]:
    """The reference of an op as a method of its signature."""
    reference = OPS[name].reference

    def method(self: Backend, *args: Any, **kwargs: Any) -> Any:
        return reference(*args, **kwargs)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [own, *OPS[name].signature.parameters.values()]
    method.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    method.__qualname__ = f"ReferenceBackend.{name}"
    return method


ReferenceBackend: type[Backend] = type(
    "ReferenceBackend", (_OnHost,), {name: _method(name) for name in OPS}
)
"""Slow, and right by definition. Not registered: nobody should run a model on it by accident."""


@functools.cache
def reference_runtime() -> Runtime:
    """A runtime on the references."""
    return Runtime(make_plan(ReferenceBackend, 0, Numerics.FAST), ReferenceBackend())
