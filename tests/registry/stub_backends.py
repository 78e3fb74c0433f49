"""Backends of other packages: one that gives nothing, one that only moves data, and odd ones.

Their tensors are of a type that refuses every operation but those of the backend itself, as the
tensors of a real device refuse to meet the host's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from glm5_hal import Backend, Cache, Capabilities, Weight, WeightRole, env

BOTH = Capabilities(dtypes=frozenset({torch.float32, torch.bfloat16}))
Install = Callable[..., None]
"""The fixture `install`: called with names and where they point, ``bare="stub_backends:Bare"``."""

READABLE = {"shape", "dtype", "device"}


class OnDevice(Tensor):
    """A tensor that only its backend may touch; anybody may read its shape and dtype."""

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if (
            getattr(function, "__name__", "") != "__get__"
            or function.__self__.__name__ not in READABLE
        ):
            raise TypeError(f"{function} on a tensor of the device")
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))


def plain(tensor: Tensor) -> Tensor:
    """What the device holds."""
    if not isinstance(tensor, OnDevice):
        raise TypeError("this tensor is not on the device")
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(Tensor)


def on_device(tensor: Tensor) -> Tensor:
    """A copy as the device holds it."""
    if isinstance(tensor, OnDevice):
        raise TypeError("this tensor is on the device already")
    return tensor.clone().as_subclass(OnDevice)


@dataclass(frozen=True)
class Box:
    """What this backend keeps of a weight or a cache: nobody else can use it."""

    content: Tensor


def unboxed(handle: Weight | Cache) -> Tensor:
    if not isinstance(handle.data, Box):
        raise TypeError("this handle is not ours")
    return handle.data.content


class Bare(Backend):
    """A device without a single op: the first day of a port."""

    name = "bare"
    capabilities = BOTH

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        return True, "always"

    @classmethod
    def device_count(cls) -> int:
        return 3

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @classmethod
    def versions(cls) -> dict[str, str]:
        return {"driver": "1.0"}

    def to_device(self, tensor: Tensor) -> Tensor:
        return on_device(tensor)

    def to_host(self, tensor: Tensor) -> Tensor:
        return plain(tensor).clone()

    def prepare_weight(self, role: WeightRole, tensor: Tensor) -> Weight:
        return Weight(role, tuple(tensor.shape), tensor.dtype, Box(tensor.clone()))

    def allocate_cache(self, pages: int, page_size: int, width: int, dtype: torch.dtype) -> Cache:
        rows = torch.full((pages * page_size, width), torch.nan, dtype=dtype)
        return Cache(pages, page_size, width, dtype, Box(rows))


class Mover(Bare):
    """The second day: data moves, nothing is computed."""

    name = "mover"

    def embedding(self, ids: Tensor, table: Weight) -> Tensor:
        return on_device(unboxed(table)[plain(ids).long()])

    def cache_write(self, cache: Cache, rows: Tensor, slots: Tensor) -> None:
        unboxed(cache)[plain(slots).long()] = plain(rows)

    def cache_read(self, cache: Cache, slots: Tensor) -> Tensor:
        return on_device(unboxed(cache)[plain(slots).long()])


class Reader(Bare):
    """Reads what nobody can have written."""

    name = "reader"
    cache_read = Mover.cache_read


class Absent(Bare):
    """Not here."""

    name = "absent"

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        return False, "no device file"


class Flaky(Bare):
    """Its swiglu fails the first time."""

    name = "flaky"

    def __init__(self, index: int = 0) -> None:
        super().__init__(index)
        self._calls = 0

    def swiglu(self, gate_up: Tensor) -> Tensor:
        self._calls += 1
        if self._calls == 1:
            raise RuntimeError("device lost")
        half = plain(gate_up).shape[1] // 2
        return on_device(torch.full((len(plain(gate_up)), half), float(self._calls)))


class Declared(Bare):
    """Says why it has no expanded attention."""

    name = "declared"
    capabilities = Capabilities(unsupported=MappingProxyType({"mla_expanded": "too little memory"}))


class Tuned(Bare):
    """Reads a variable of its own."""

    name = "tuned"
    variables = (env.Variable("GLM5_HAL_TUNED_SPEED", "1 or 2", "1", "How fast."),)


NOT_A_BACKEND = 3
