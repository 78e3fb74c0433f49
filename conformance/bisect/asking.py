"""Asking a backend one call at a time, each from the host and with nothing left of the last."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from glm5_hal import Cache, PagedContext, Runtime, Unsupported, Weight, ops
from glm5_hal.conformance.bisect import layout
from glm5_hal.conformance.bisect.observed import Results
from glm5_hal.conformance.call import CacheValue, Call, ShardValue, WeightValue
from glm5_hal.conformance.compare import first_difference
from glm5_hal.conformance.errors import ConformanceError
from glm5_hal.place import OUTSIDE, place

_CONTEXT = ("page_table", "sequence", "lengths")


class NotGivenError(ConformanceError):
    """A backend's cache cannot be given its contents, so that what reads it goes unjudged."""


class ChangedInputError(ConformanceError):
    """An op changed what it was given.

    Attributes:
        argument: its name.
    """

    def __init__(self, argument: str) -> None:
        super().__init__(f"the call changed its input {argument}")
        self.argument = argument


class Asker:
    """Carries calls to a backend; a weight is prepared at its first use and kept.

    Args:
        runtime: to ask.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._weights: dict[int, tuple[WeightValue, Weight]] = {}

    def know(self, value: WeightValue, weight: Weight) -> None:
        """A weight that the backend has prepared already."""
        self._weights[id(value)] = value, weight

    def answer(self, call: Call) -> Results:
        """What the backend answers, on the host; of cache_write all slots.

        Raises:
            NotGivenError: a cache cannot be given its contents.
            ChangedInputError: an input is another after the call.
            Exception: whatever the backend raises.
        """
        with place(OUTSIDE):  # carrying is no call of the model
            carried = {name: self._carry(name, value) for name, value in call.arguments.items()}
        with self.runtime:
            result = call.spec(**carried)
        with place(OUTSIDE):
            found = self._fetch(result, carried.get("cache"))
            for name, value in call.arguments.items():
                if name != "cache" or call.op != "cache_write":
                    self._check_kept(name, value, carried[name])
        return found

    def _fetch(self, result: Any, cache: Cache | None) -> Results:
        if result is None and cache is not None:
            return (self._slots(cache),)
        parts = result if isinstance(result, tuple) else (result,)
        return tuple(self.runtime.backend.to_host(part).clone() for part in parts)

    def _carry(self, name: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, WeightValue):
            if id(value) not in self._weights:
                prepared = self.runtime.prepare_weight(value.role, value.tensor)
                self._weights[id(value)] = value, prepared
            return self._weights[id(value)][1]
        if isinstance(value, ShardValue):
            raise TypeError(f"{name} is a shard: a model on several ranks is not bisected")
        if isinstance(value, CacheValue):
            return self._cache(name, value)
        if isinstance(value, PagedContext):
            carried = {part: self._tensor(getattr(value, part)) for part in _CONTEXT}
            return PagedContext(**carried, max_length=value.max_length)
        return value

    def _tensor(self, value: Tensor) -> Tensor:
        copied = layout.copy(value)
        if copied.is_contiguous():
            return self.runtime.backend.to_device(copied)
        buffer = self.runtime.backend.to_device(layout.buffer_of(copied))
        return buffer.as_strided(copied.shape, copied.stride())

    def _cache(self, name: str, value: CacheValue) -> Cache:
        slots, width = value.rows.shape
        pages = slots // value.page_size
        cache = self.runtime.allocate_cache(pages, value.page_size, width, value.rows.dtype)
        try:
            with self.runtime:
                ops.cache_write(cache, self._tensor(value.rows), self._every(cache))
            held = self._slots(cache)
        except Unsupported as error:
            raise NotGivenError(f"{name} cannot be given its rows: {error}") from error
        if _differ(value.rows, held):
            raise NotGivenError(
                f"{name} cannot be given its rows: cache_read reads others than cache_write wrote"
            )
        return cache

    def _slots(self, cache: Cache) -> Tensor:
        with self.runtime:
            rows = ops.cache_read(cache, self._every(cache))
        return self.runtime.backend.to_host(rows).clone()

    def _every(self, cache: Cache) -> Tensor:
        return self.runtime.backend.to_device(torch.arange(cache.shape[0], dtype=torch.int32))

    def _check_kept(self, name: str, value: Any, carried: Any) -> None:
        for part, before, after in self._held(name, value, carried):
            if _differ(before, after):
                raise ChangedInputError(part)

    def _held(self, name: str, value: Any, carried: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(name, before the call, after it) of what an argument holds."""
        to_host = self.runtime.backend.to_host
        if isinstance(value, Tensor):
            yield name, value, to_host(carried)
        elif isinstance(value, CacheValue):
            yield name, value.rows, self._slots(carried)
        elif isinstance(value, PagedContext):
            for part in _CONTEXT:
                yield f"{name}.{part}", getattr(value, part), to_host(getattr(carried, part))


def _differ(before: Tensor, after: Tensor) -> bool:
    return first_difference((before,), (after,), any_nan=False) is not None


def without_gaps(call: Call) -> Call:
    """The same call with contiguous tensors."""
    plain = {n: v.contiguous() for n, v in call.arguments.items() if isinstance(v, Tensor)}
    return call.with_arguments(**plain)
