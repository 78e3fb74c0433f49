"""An op call as data: built on the host, carried to a backend, answered, brought back."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from glm5_hal import Cache, Numerics, PagedContext, Runtime, Weight, WeightRole
from glm5_hal.conformance.reference_backend import reference_runtime
from glm5_hal.contract import OPS, Op


@dataclass(frozen=True)
class WeightValue:
    """A parameter on the host, to be prepared by the backend."""

    role: WeightRole
    tensor: Tensor


@dataclass(frozen=True)
class ShardValue:
    """A linear weight [N, K] on the host, whose columns [start, stop) a backend is to prepare."""

    tensor: Tensor
    start: int
    stop: int


@dataclass(frozen=True)
class CacheValue:
    """A cache on the host: all its slots, [pages * page_size, width]."""

    rows: Tensor
    page_size: int


@dataclass(frozen=True)
class Call:
    """One op call with host values.

    Attributes:
        op: name of the op.
        arguments: name to tensor, value of a handle (`WeightValue`, ...), `PagedContext` or plain
            value.
    """

    op: str
    arguments: Mapping[str, Any]

    @property
    def spec(self) -> Op[..., Any]:
        """The op."""
        return OPS[self.op]

    def with_arguments(self, **changed: Any) -> "Call":
        """The call with some arguments replaced."""
        return replace(self, arguments={**self.arguments, **changed})

    def per_token(self) -> list[str]:
        """Names of the tensor arguments whose first dimension is the tokens'."""
        arrays = self.spec.arguments
        return [
            name
            for name, value in self.arguments.items()
            if isinstance(value, Tensor) and arrays[name].dims[0].text == "T"
        ]

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        name = self.per_token()[0]
        return int(self.arguments[name].shape[0])

    def take(self, tokens: Tensor) -> "Call":
        """The call for some tokens (int64 indices, any order, repeats allowed)."""
        changed: dict[str, Any] = {n: self.arguments[n][tokens] for n in self.per_token()}
        for name, value in self.arguments.items():
            if isinstance(value, PagedContext):
                changed[name] = replace(
                    value, sequence=value.sequence[tokens], lengths=value.lengths[tokens]
                )
        return self.with_arguments(**changed)

    def double(self) -> "Call":
        """The call with activations, weights and caches in float64, for the oracle."""
        return replace(self, arguments={n: _double(v) for n, v in self.arguments.items()})

    def reference(self) -> tuple[Tensor, ...]:
        """What the op's reference answers; for cache_write the cache's slots afterwards."""
        plain = {name: _plain(value) for name, value in self.arguments.items()}
        return _results(self.spec.reference(**plain), plain.get("cache"))

    def defined(self, numerics: Numerics) -> tuple[Tensor, ...]:
        """What the op's definition in a profile answers; a composite's is made of its parts."""
        if numerics is Numerics.FAST:
            return self.reference()
        return answer(reference_runtime(numerics), self)


def _double(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, WeightValue):
        return replace(value, tensor=value.tensor.double())
    if isinstance(value, CacheValue):
        return replace(value, rows=value.rows.double())
    return torch.float64 if isinstance(value, torch.dtype) else value


def _plain(value: Any) -> Any:
    """A host value as handles whose data are plain tensors."""
    if isinstance(value, WeightValue):
        return Weight(value.role, tuple(value.tensor.shape), value.tensor.dtype, value.tensor)
    if isinstance(value, CacheValue):
        slots, width = value.rows.shape
        pages = slots // value.page_size
        return Cache(pages, value.page_size, width, value.rows.dtype, value.rows.clone())
    return value


def _results(result: Any, cache: Cache | None) -> tuple[Tensor, ...]:
    if result is None:
        assert cache is not None
        return (cache.tensor,)
    return result if isinstance(result, tuple) else (result,)


@dataclass
class Loaded:
    """A call whose arguments lie on a backend's device; may be run many times."""

    call: Call
    runtime: Runtime
    arguments: dict[str, Any]

    @classmethod
    def on(cls, runtime: Runtime, call: Call) -> "Loaded":
        """Carry the arguments over."""
        with runtime:
            return cls(call, runtime, {n: _carry(runtime, v) for n, v in call.arguments.items()})

    def run(self) -> tuple[Any, ...]:
        """Run the op; results on the device."""
        with self.runtime:
            result = self.call.spec(**self.arguments)
        return result if isinstance(result, tuple) else (result,)

    def answer(self) -> tuple[Tensor, ...]:
        """Run the op; results on the host (for cache_write, all slots of the cache)."""
        return self.fetch(self.run())

    def fetch(self, results: tuple[Any, ...]) -> tuple[Tensor, ...]:
        """Bring results to the host."""
        backend = self.runtime.backend
        if results == (None,):
            return (self.slots("cache"),)
        return tuple(backend.to_host(part).clone() for part in results)

    def slots(self, name: str) -> Tensor:
        """All slots of a cache argument, on the host."""
        cache: Cache = self.arguments[name]
        slots = torch.arange(cache.shape[0], dtype=torch.int32)
        backend = self.runtime.backend
        return backend.to_host(backend.cache_read(cache, backend.to_device(slots))).clone()


def _carry(runtime: Runtime, value: Any) -> Any:
    backend = runtime.backend
    if isinstance(value, Tensor):
        return backend.to_device(value.clone())
    if isinstance(value, WeightValue):
        return runtime.prepare_weight(value.role, value.tensor.clone())
    if isinstance(value, ShardValue):
        return backend.prepare_shard(value.tensor.clone(), value.start, value.stop)
    if isinstance(value, CacheValue):
        slots, width = value.rows.shape
        cache = runtime.allocate_cache(
            slots // value.page_size, value.page_size, width, value.rows.dtype
        )
        every = torch.arange(slots, dtype=torch.int32)
        backend.cache_write(cache, backend.to_device(value.rows.clone()), backend.to_device(every))
        return cache
    if isinstance(value, PagedContext):
        return replace(
            value,
            page_table=backend.to_device(value.page_table.clone()),
            sequence=backend.to_device(value.sequence.clone()),
            lengths=backend.to_device(value.lengths.clone()),
        )
    return value


def answer(runtime: Runtime, call: Call) -> tuple[Tensor, ...]:
    """Carry a call to the backend, run it once, bring the results back."""
    return Loaded.on(runtime, call).answer()
