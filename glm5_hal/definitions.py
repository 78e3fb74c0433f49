"""The definitions of the ops as the methods of a backend: slow, and right by definition."""

import inspect
from collections.abc import Callable
from typing import Any

from glm5_hal.backend import Backend
from glm5_hal.contract import OPS, Kind, Op
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
    made = {op.name: _method(op, numerics) for op in OPS.values() if _is_defined(op, numerics)}
    return type(name, (base,), {"__module__": base.__module__, **made})


def _is_defined(op: Op[..., Any], numerics: Numerics) -> bool:
    if op.profile is not None:
        return op.profile is numerics
    return numerics is Numerics.FAST or op.kind is Kind.PRIMITIVE or op.exact_rule is not None


def _method(op: Op[..., Any], numerics: Numerics) -> Callable[..., Any]:
    """A definition as a method with the signature of its op."""
    definition = op.definition(numerics)

    def method(self: Backend, *args: Any, **kwargs: Any) -> Any:
        return definition(*args, **kwargs)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [own, *op.signature.parameters.values()]
    method.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    method.__module__, method.__qualname__ = definition.__module__, definition.__qualname__
    return method
