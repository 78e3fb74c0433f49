"""The door: every op call of the model passes here on its way to the backend."""

import threading
from collections.abc import Callable, Mapping
from contextvars import Token
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from glm5_hal.backend import Backend
from glm5_hal.contract import ACTIVE, OPS, Dispatcher, Op
from glm5_hal.handles import Cache, Weight, WeightRole
from glm5_hal.plan import Plan, resolve
from glm5_hal.registry import load
from glm5_hal.substitute import Substitute

P = ParamSpec("P")
R = TypeVar("R")

Observer = Callable[[Op[..., Any], tuple[Any, ...], Mapping[str, Any], Any], None]
"""Sees each finished op call: the op, its arguments, its keyword arguments, its result."""


class _Entered(threading.local):
    """What was active before each `with` that is open in this thread."""

    def __init__(self) -> None:
        self.tokens: list[Token[Dispatcher | None]] = []


class Runtime:
    """A plan, its backend, and whoever watches.

    Use as a context manager: inside, the functions of `glm5_hal.ops` go to this runtime. Runtimes
    nest, and each thread has its own active one.

    Attributes:
        plan: what was decided.
        backend: the backend instance; the model asks it for weights, caches and copies.
        observers: called after every op, in order, composites after their parts.
    """

    def __init__(self, plan: Plan, backend: Backend) -> None:
        self.plan = plan
        self.backend = backend
        if plan.mode:
            backend.use_mode(plan.mode)
        self.observers: list[Observer] = []
        self._entered = _Entered()
        self._substitute = _cpu_for(backend, plan) if plan.substituted else None
        self._answers: dict[str, Callable[..., Any]] = {
            name: self._answer(name, implementation.source)
            for name, implementation in plan.ops.items()
        }

    def _answer(self, name: str, source: str) -> Callable[..., Any]:
        if source == "default":
            return OPS[name].default
        if source == "substitute" and self._substitute is not None:
            return self._substitute.answer(name)
        method: Callable[..., Any] = getattr(self.backend, name)
        if name == "cache_write" and self._substitute is not None:
            return self._substitute.mirrored_write(method)
        return method

    def call(self, op: Op[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Check the arguments, run the op, check what came back, tell the observers."""
        dims = op.check_arguments(args, kwargs)
        result: R = self._answers[op.name](*args, **kwargs)
        op.check_result(result, dims, self.plan.backend)
        for observer in self.observers:
            observer(op, args, kwargs, result)
        return result

    def prepare_weight(self, role: WeightRole, tensor: Tensor) -> Weight:
        """`Backend.prepare_weight`, and a twin on the CPU where ops are substituted."""
        weight = self.backend.prepare_weight(role, tensor)
        if self._substitute is not None:
            self._substitute.adopt_weight(weight, role, tensor)
        return weight

    def prepare_shard(self, tensor: Tensor, start: int, stop: int) -> Weight:
        """`Backend.prepare_shard`."""
        return self.backend.prepare_shard(tensor, start, stop)

    def allocate_cache(self, pages: int, page_size: int, width: int, dtype: torch.dtype) -> Cache:
        """`Backend.allocate_cache`, and a twin on the CPU where ops are substituted."""
        cache = self.backend.allocate_cache(pages, page_size, width, dtype)
        if self._substitute is not None:
            self._substitute.adopt_cache(cache)
        return cache

    def __enter__(self) -> "Runtime":
        self._entered.tokens.append(ACTIVE.set(self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ACTIVE.reset(self._entered.tokens.pop())


def _cpu_for(backend: Backend, plan: Plan) -> Substitute:
    return Substitute(backend, load("cpu").in_profile(plan.numerics)())


def open_runtime(backend: str | None = None, numerics: str | None = None) -> Runtime:
    """Resolve a plan from the arguments or the environment and open its backend.

    Raises:
        SelectionError, BackendUnavailable: as `glm5_hal.plan.resolve`.
    """
    plan, cls = resolve(backend, numerics)
    return Runtime(plan, cls(plan.index))
