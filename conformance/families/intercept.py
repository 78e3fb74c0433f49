"""Watching what a torch-based backend does inside an op.

These modes see the calls that a backend makes to torch: they fill and fence what it allocates,
refuse a call, or record a detour over the host. A backend that allocates and computes outside
torch is not seen by them; the other cases of the same requirement still judge its results.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from glm5_hal import Runtime

_ALLOCATIONS = frozenset(
    {
        "aten::empty.memory_format",
        "aten::empty_strided",
        "aten::empty_like",
        "aten::new_empty",
        "aten::new_empty_strided",
    }
)


class _Mode(TorchDispatchMode):
    """`TorchDispatchMode`, whose own methods carry no types."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to skip it means to import it, for seconds

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]


class Prefill(_Mode):
    """Everything that is newly allocated holds `value` and stands between sentinels."""

    _SENTINELS = 64
    _SENTINEL = 91  # a value that every dtype has

    def __init__(self, value: float) -> None:
        super().__init__()
        self._value = value
        self._buffers: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.name() not in _ALLOCATIONS or not isinstance(result, Tensor) or not result.numel():
            return result
        reach = sum((n - 1) * s for n, s in zip(result.shape, result.stride(), strict=True)) + 1
        buffer = result.new_full((reach + 2 * self._SENTINELS,), self._SENTINEL)
        self._buffers.append(buffer)
        inner = buffer.as_strided(result.shape, result.stride(), self._SENTINELS)
        return inner.fill_(self._value if result.is_floating_point() else 77)

    @property
    def overrun(self) -> bool:
        """Whether something was written in front of a buffer or behind it."""
        edges = [b[side] for b in self._buffers for side in self._sides()]
        return not all(bool((edge == self._SENTINEL).all()) for edge in edges)

    def _sides(self) -> tuple[slice, slice]:
        return slice(None, self._SENTINELS), slice(-self._SENTINELS, None)


class InjectedError(RuntimeError):
    """The error that `Refuse` raises inside an op."""


class Refuse(_Mode):
    """Raises at the `after`-th call into torch, as a device that ran out of memory would."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._left = after
        self.raised = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._left -= 1
        if self._left < 0 and not self.raised:
            self.raised = True
            raise InjectedError("injected by the conformance suite: out of memory")
        return func(*args, **(kwargs or {}))


class HostDetour:
    """Records copies to the host through the backend's own door while it is active."""

    def __init__(self, runtime: Runtime) -> None:
        self._backend = runtime.backend
        self.copies = 0

    def __enter__(self) -> "HostDetour":
        original: Callable[[Tensor], Tensor] = self._backend.to_host

        def counted(tensor: Tensor) -> Tensor:
            self.copies += 1
            return original(tensor)

        # an instance attribute in front of the class's method, removed again on leaving
        self._backend.__dict__["to_host"] = counted
        self._mode = _HostCopies(self._backend.device)
        self._mode.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._mode.__exit__(kind, error, trace)
        del self._backend.__dict__["to_host"]
        self.copies += self._mode.copies


class _HostCopies(_Mode):
    """Counts computations on host tensors where the device is another."""

    _SMALL = 4096  # index arithmetic and scalars may stay on the host

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._watch = device.type != "cpu"
        self.copies = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if (
            self._watch
            and isinstance(result, Tensor)
            and result.device.type == "cpu"
            and result.numel() > self._SMALL
        ):
            self.copies += 1
        return result
