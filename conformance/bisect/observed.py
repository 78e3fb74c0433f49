"""A runtime whose op calls can be followed: each is handed on as data, on the host."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from glm5_hal import Cache, PagedContext, Runtime, Unsupported, Weight, WeightRole, ops
from glm5_hal.backend import Backend
from glm5_hal.conformance.bisect import layout
from glm5_hal.conformance.bisect.sites import Counting, Site
from glm5_hal.conformance.call import CacheValue, Call, WeightValue
from glm5_hal.contract import Kind, Op
from glm5_hal.place import OUTSIDE, current, place
from glm5_hal.plan import Plan

P = ParamSpec("P")
R = TypeVar("R")

Results = tuple[Tensor, ...]
See = Callable[[Site, Call, Results], None]
"""Told each call, what it was given, and its results (of cache_write all slots); parts first."""
Keep = Callable[[WeightRole, Tensor], Any]
"""What stands for a weight in the calls that are told: `WeightValue`, which holds it, or less."""


class Observed(Runtime):
    """Answers as `backend` does and tells of every call.

    New caches hold NaN in every slot, so that what is read before it was written shows, on every
    machine alike.

    Args:
        plan: what was decided.
        backend: the backend instance.
        see: told each finished call.
        in_parts: call and tell a composite's parts, as far as there are any, although the backend
            answers the composite itself.
        keep: makes what stands for a weight.

    Attributes:
        weights: every prepared weight with what stands for it, in order.
    """

    def __init__(
        self,
        plan: Plan,
        backend: Backend,
        see: See,
        in_parts: bool = False,
        keep: Keep = WeightValue,
    ) -> None:
        super().__init__(plan, backend)
        self.weights: list[tuple[Weight, Any]] = []
        self._see = see
        self._in_parts = in_parts
        self._keep = keep
        self._values: dict[int, Any] = {}
        # by identity; the handle is kept beside its rows so that an id is never reused
        self._caches: dict[int, tuple[Cache, Tensor]] = {}
        self._counting = Counting()

    def next_pass(self) -> None:
        """Another forward pass begins."""
        self._counting.next_pass()

    def prepare_weight(self, role: WeightRole, tensor: Tensor) -> Weight:
        weight = super().prepare_weight(role, tensor)
        value = self._keep(role, tensor)
        self.weights.append((weight, value))
        self._values[id(weight)] = value
        return weight

    def allocate_cache(self, pages: int, page_size: int, width: int, dtype: torch.dtype) -> Cache:
        cache = super().allocate_cache(pages, page_size, width, dtype)
        rows = torch.full(cache.shape, torch.nan, dtype=dtype)
        super().call(ops.cache_write, cache, self.backend.to_device(rows), self._every(cache))
        self._caches[id(cache)] = cache, rows
        return cache

    def call(self, op: Op[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        bound = op.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = Call(op.name, {name: self._hosted(v) for name, v in bound.arguments.items()})
        site = self._counting.enter(op.name, current())
        try:
            native = self.plan.ops[op.name].source == "native"
            if op.kind is Kind.COMPOSITE and native and self._in_parts:
                with suppress(Unsupported):
                    op.default(*args, **kwargs)
            result = super().call(op, *args, **kwargs)
        finally:
            self._counting.leave()
        self._see(site, given, self._results(result, bound.arguments.get("cache")))
        return result

    def _hosted(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return layout.copy(self.backend.to_host(value))
        if isinstance(value, Weight):
            return self._values[id(value)]
        if isinstance(value, Cache):
            return CacheValue(self._caches[id(value)][1], value.page_size)
        if isinstance(value, PagedContext):
            tensors = ("page_table", "sequence", "lengths")
            moved = {name: self._hosted(getattr(value, name)) for name in tensors}
            return PagedContext(**moved, max_length=value.max_length)
        return value

    def _results(self, result: Any, cache: Cache | None) -> Results:
        if result is None and cache is not None:
            with place(OUTSIDE):  # reading back is no call of the model
                held = super().call(ops.cache_read, cache, self._every(cache))
            rows = self.backend.to_host(held).clone()
            self._caches[id(cache)] = cache, rows
            return (rows,)
        parts = result if isinstance(result, tuple) else (result,)
        return tuple(self.backend.to_host(part).clone() for part in parts)

    def _every(self, cache: Cache) -> Tensor:
        return self.backend.to_device(torch.arange(cache.shape[0], dtype=torch.int32))


def named_weights(runtime: Observed, weights: object) -> Iterator[tuple[str, Any]]:
    """Where the weights of a model stand in it, and what stands for them in the calls."""
    kept = {id(weight): value for weight, value in runtime.weights}
    for weight, name in weight_names(weights):
        yield name, kept[id(weight)]


def weight_names(weights: object) -> Iterator[tuple[Weight, str]]:
    """The weights of a model with where they stand in it: ``layers.3.attention.q_b``."""
    for name, value in _members(weights):
        if isinstance(value, Weight):
            yield value, name
        else:
            yield from ((weight, f"{name}.{inner}") for weight, inner in weight_names(value))


def _members(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, tuple):
        yield from ((str(number), member) for number, member in enumerate(value))
    elif dataclasses.is_dataclass(value):
        yield from ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
