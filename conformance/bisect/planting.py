"""Faults in one place of the model: backends that are sound everywhere else.

Proof that a bisection finds what it is for. A fault is planted into a sound backend by hand
(`plant`), or is that of one of the suite's mutants (`mutant_in`).
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from glm5_hal import Backend, Runtime
from glm5_hal.conformance.mutants.mutant import SOUND, Mutant
from glm5_hal.contract import OPS
from glm5_hal.levels import Numerics
from glm5_hal.place import current
from glm5_hal.plan import make_plan

Fault = Callable[..., Any]
"""Answers an op wrongly: (the sound op, its arguments) -> result."""


def plant(sound: type[Backend], op: str, where: str, fault: Fault) -> type[Backend]:
    """A subclass of `sound`, called ``planted``, whose `op` has a fault in one place.

    The op becomes the backend's own: of a composite it plants a fused kernel.

    Args:
        sound: a backend without the fault.
        op: name of the op.
        where: part of the model, see `glm5_hal.place`.
        fault: called with the sound op (a function of the op's arguments) and the arguments.
    """
    right = getattr(sound, op)

    def wrong(self: Backend, *args: Any, **kwargs: Any) -> Any:
        return fault(functools.partial(right, self), *args, **kwargs)

    return _in_place(sound, sound, {op: wrong}, where)


def mutant_in(mutant: Mutant, where: str) -> type[Backend]:
    """A mutant whose fault shows in one place only."""
    broken, sound = mutant.backend_class, SOUND[mutant.numerics]
    faulty = {
        op: getattr(broken, op) for op in OPS if getattr(broken, op) is not getattr(sound, op)
    }
    return _in_place(broken, sound, faulty, where)


def runtime_of(backend_class: type[Backend], numerics: Numerics = Numerics.EXACT) -> Runtime:
    """A runtime on a backend that is not registered."""
    return Runtime(make_plan(backend_class, 0, numerics), backend_class())


def _in_place(
    base: type[Backend], sound: type[Backend], faulty: dict[str, Fault], where: str
) -> type[Backend]:
    methods = {op: _method(op, getattr(sound, op), wrong, where) for op, wrong in faulty.items()}
    return type("Planted", (base,), {"__module__": __name__, "name": "planted", **methods})


def _method(op: str, right: Fault, wrong: Fault, where: str) -> Fault:
    """The op as a method, right in all places but one."""

    def method(self: Backend, *args: Any, **kwargs: Any) -> Any:
        return (wrong if current() == where else right)(self, *args, **kwargs)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [own, *OPS[op].signature.parameters.values()]
    method.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    method.__qualname__ = f"Planted.{op}"
    return method
