"""The mark of an op that a backend is going to have."""

import functools
import inspect
from collections.abc import Callable
from types import CodeType
from typing import NoReturn, ParamSpec, TypeVar

from glm5_hal.backend import Backend
from glm5_hal.contract import OPS
from glm5_hal.errors import Unsupported

P = ParamSpec("P")
R = TypeVar("R")


def not_written(method: Callable[P, R]) -> Callable[P, R]:
    """Decorate a backend's method for an op that is not written yet.

    To the plan the backend does not have the op: it may be substituted, or has its default. A call
    raises `Unsupported`, which names the place to write it in and its specification.
    """
    where = _place(method)

    @functools.wraps(method)
    def missing(*args: P.args, **kwargs: P.kwargs) -> NoReturn:
        raise unwritten(method.__name__, where)

    missing.not_written = where  # type: ignore[attr-defined] # what `Backend.overrides` asks for
    return missing


def unwritten(op: str, where: str) -> Unsupported:
    """The error that a call of an op that is not written yet raises.

    Args:
        op: its name.
        where: the place to write it in.
    """
    return Unsupported(op, f"not written yet: {op}; write it in {where}, spec: {spec_of(op)}")


def spec_of(op: str) -> str:
    """Where an op's specification stands: the page, and the command that prints it."""
    requirement = next(iter(OPS[op].requirements))
    return f"docs/spec/{op}.md, `glm5-hal conformance explain {requirement}`"


def place_of(backend: type[Backend], op: str) -> str:
    """Where an op of a backend is written or to be written: the file, the line if it is known."""
    method = getattr(backend, op)
    where: str | None = getattr(method, "not_written", None)
    if where is not None:
        return where
    source = getattr(backend, "_source", None)
    if source is not None and hasattr(method, "in_c"):  # not written in Python
        return str(source())
    return _place(method) if backend.overrides(op) else inspect.getfile(backend)


def _place(function: Callable[..., object]) -> str:
    code: CodeType = inspect.unwrap(function).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"
