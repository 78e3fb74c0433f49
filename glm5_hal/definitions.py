"""The definitions of the ops as a backend's methods: slow, and right in the sense of the contract."""

import inspect
from collections.abc import Callable
from typing import Any

from glm5_hal.backend import Backend
from glm5_hal.contract import OPS, Kind
from glm5_hal.levels import Numerics


def defined(base: type[Backend], name: str, numerics: Numerics) -> type[Backend]:
    """A subclass of `base` that answers every op with its definition in a profile.

    In the exact profile composites keep their default, which is what defines them there, and
    optional ops without an exact rule stay as `base` has them.

    Args:
        base: everything but the ops: identity, device, weights and caches as plain tensors.
        name: of the class.
        numerics: the profile.
    """
    exact = numerics is Numerics.EXACT
    chosen = [op for op in OPS.values() if not exact or op.exact_rule or op.kind is Kind.PRIMITIVE]
    made = {op.name: _method(name, op.name, op.definition(numerics)) for op in chosen}
    return type(name, (base,), {"__module__": base.__module__, **made})


def _method(cls: str, name: str, definition: Callable[..., Any]) -> Callable[..., Any]:
    """A definition as a method with the signature of its op."""

    def method(self: Backend, *args: Any, **kwargs: Any) -> Any:
        return definition(*args, **kwargs)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [own, *OPS[name].signature.parameters.values()]
    method.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    method.__qualname__ = f"{cls}.{name}"
    method.__module__ = definition.__module__
    return method
