"""Running ops that a backend lacks on the CPU: a porting aid, never a claim.

Weights and caches get a twin on the CPU, cache writes are mirrored, tensors are copied over and
back. The plan records every substituted op.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from glm5_hal.backend import Backend
from glm5_hal.errors import HalError
from glm5_hal.handles import Cache, PagedContext, Weight, WeightRole


class Substitute:
    """The CPU standing in for some ops of `backend`."""

    def __init__(self, backend: Backend, cpu: Backend) -> None:
        self._backend = backend
        self._cpu = cpu
        # keyed by identity; the handle is kept with its twin so that an id is never reused
        self._twins: dict[int, tuple[object, Weight | Cache]] = {}

    def adopt_weight(self, weight: Weight, role: WeightRole, tensor: Tensor) -> None:
        """Keep a CPU twin of `weight`."""
        self._twins[id(weight)] = (weight, self._cpu.prepare_weight(role, tensor))

    def adopt_cache(self, cache: Cache) -> None:
        """Keep a CPU twin of `cache`."""
        twin = self._cpu.allocate_cache(cache.pages, cache.page_size, cache.width, cache.dtype)
        self._twins[id(cache)] = (cache, twin)

    def answer(self, op: str) -> Callable[..., Any]:
        """`op` on the CPU, with arguments copied over and results copied back."""
        run = getattr(self._cpu, op)

        def substituted(*args: Any, **kwargs: Any) -> Any:
            host_args = [self._to_cpu(value) for value in args]
            host_kwargs = {key: self._to_cpu(value) for key, value in kwargs.items()}
            return self._from_cpu(run(*host_args, **host_kwargs))

        return substituted

    def mirrored_write(self, write: Callable[..., Any]) -> Callable[..., Any]:
        """A native cache_write that also writes to the twin."""

        def mirrored(cache: Cache, rows: Tensor, slots: Tensor) -> None:
            write(cache, rows, slots)
            self._cpu.cache_write(*(self._to_cpu(value) for value in (cache, rows, slots)))

        return mirrored

    def _to_cpu(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._backend.to_host(value)
        if isinstance(value, Weight | Cache):
            return self._twin(value)
        if isinstance(value, PagedContext):
            return replace(
                value,
                page_table=self._backend.to_host(value.page_table),
                sequence=self._backend.to_host(value.sequence),
                lengths=self._backend.to_host(value.lengths),
            )
        return value

    def _twin(self, handle: Weight | Cache) -> Weight | Cache:
        if id(handle) not in self._twins:
            kind = type(handle).__name__.lower()
            raise HalError(
                f"this {kind} has no twin on the CPU, where some ops run; ask the runtime for it, "
                "not its backend"
            )
        return self._twins[id(handle)][1]

    def _from_cpu(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._backend.to_device(value)
        if isinstance(value, tuple):
            return tuple(self._from_cpu(part) for part in value)
        return value
