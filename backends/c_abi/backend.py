"""The base of backends of chips with nothing but a library in C.

Weights and caches lie in the library's memory. Activations lie on the host: each call copies its
own in and its results out, which is what such a chip costs until torch knows it.
"""

import ctypes
import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from glm5_hal import Backend, Cache, Capabilities, Numerics, PagedContext, Weight, WeightRole
from glm5_hal.backends.c_abi.library import Device, Held, Library, LibraryError
from glm5_hal.backends.c_abi.signatures import (
    DTYPES,
    NOT_IN_ABI,
    CacheC,
    ContextC,
    TensorC,
)
from glm5_hal.backends.described.backend import DescribedBackend
from glm5_hal.contract import OPS, Dim, Dims, Op
from glm5_hal.porting.unwritten import unwritten

NO_DTYPE = 0
"""``GLM5_NONE``."""
PROFILES = MappingProxyType({Numerics.FAST: 0, Numerics.EXACT: 1})
"""``GLM5_FAST`` and ``GLM5_EXACT``."""


class CAbiBackend(DescribedBackend):
    """Ops are those that the library says are written; backend.yaml says the rest.

    A subclass gives `name`, `_package`, `_library` and `_written_in`.
    """

    name = "c-abi"
    capabilities = Capabilities(
        dtypes=frozenset({torch.float32, torch.bfloat16}),
        unsupported=MappingProxyType(
            {**NOT_IN_ABI, "mla_expanded": "attention runs on latent rows as they lie"}
        ),
    )

    _library: ClassVar[str]
    """Path of the shared library, from the folder of the subclass's module."""
    _written_in: ClassVar[str]
    """Path of the source that ops are written in, likewise."""
    _numerics: ClassVar[Numerics] = Numerics.FAST

    def __init__(self, index: int = 0) -> None:
        super().__init__(index)
        self._memory = Device(self._loaded(), index, PROFILES[self._numerics])

    # --- the library ---

    @classmethod
    def _folder(cls) -> Path:
        found = sys.modules[cls.__module__].__file__
        assert found is not None
        return Path(found).parent

    @classmethod
    def _source(cls) -> Path:
        return cls._folder() / cls._written_in

    @classmethod
    @functools.cache
    def _loaded(cls) -> Library:
        return Library(cls._folder() / cls._library)

    @classmethod
    def _absent(cls) -> str | None:
        path = cls._folder() / cls._library
        if not path.exists():
            return f"{path} is not built: make -C {path.parent}"
        try:
            if cls.device_count() == 0:
                return f"{path} finds no device: {cls._loaded().error}"
        except LibraryError as error:
            return str(error)
        return None

    @classmethod
    def _found(cls) -> str:
        count = cls.device_count()
        return f"{count} {cls._descriptor().vendor} device{'s' * (count != 1)}, by {cls._library}"

    @classmethod
    def device_count(cls) -> int:
        return cls._loaded().device_count

    @classmethod
    def versions(cls) -> dict[str, str]:
        return {**super().versions(), Path(cls._library).name: cls._loaded().version}

    @classmethod
    def overrides(cls, op: str) -> bool:
        own = not hasattr(getattr(cls, op), "in_c")  # a subclass may write an op in Python
        if own or op in NOT_IN_ABI:
            return own and super().overrides(op)
        return cls._loaded().supports(op, PROFILES[cls._numerics])

    @classmethod
    def in_profile(cls, numerics: Numerics) -> type[Backend]:
        super().in_profile(numerics)
        return cls if numerics is cls._numerics else _in_profile(cls, numerics)

    # --- what it keeps ---

    def synchronize(self) -> None:
        self._memory.synchronize()

    def prepare_weight(self, role: WeightRole, tensor: Tensor) -> Weight:
        held = self._memory.take(tensor.contiguous(), f"this {role.value} weight")
        return Weight(role, tuple(tensor.shape), tensor.dtype, held)

    def allocate_cache(self, pages: int, page_size: int, width: int, dtype: torch.dtype) -> Cache:
        rows = self._memory.empty((pages * page_size, width), dtype)
        return Cache(pages, page_size, width, dtype, rows)

    # --- ops ---

    def _answer(self, op: Op[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the library; what was copied in for it is freed behind it, come what may."""
        if not self.overrides(op.name):
            raise unwritten(op.name, str(self._source()))
        dims = op.check_arguments(args, kwargs)
        given = op.signature.bind(*args, **kwargs)
        given.apply_defaults()
        kept: list[Held] = []
        values = [self._handed(name, value, kept) for name, value in given.arguments.items()]
        results = _empty_results(op, dims, given.arguments, self._memory)
        library = self._memory.library
        pointers = [ctypes.byref(result.c) for result in results]
        code = library.op(op.name)(self._memory.stream, *values, *pointers)
        library.check(f"glm5_{op.name}", code)
        answers = tuple(result.host() for result in results)
        if not answers:
            self.synchronize()  # or the arguments could be freed before they are read
            return None
        return answers if len(answers) > 1 else answers[0]

    def _handed(self, name: str, value: Any, kept: list[Held]) -> Any:
        """A value as ctypes takes it; `kept` holds what must live until the call is done."""
        if isinstance(value, Tensor):
            return ctypes.byref(self._copied(name, value, kept))
        if isinstance(value, Weight):
            return ctypes.byref(_held(value).c)
        if isinstance(value, Cache):
            return ctypes.byref(CacheC(_held(value).c, value.pages, value.page_size))
        if isinstance(value, PagedContext):
            parts = ("page_table", "sequence", "lengths")
            copies = (self._copied(f"{name}.{p}", getattr(value, p), kept) for p in parts)
            return ctypes.byref(ContextC(*copies, value.max_length))
        if isinstance(value, torch.dtype) or name == "out_dtype":
            return DTYPES[value] if value else NO_DTYPE
        return value

    def _copied(self, name: str, tensor: Tensor, kept: list[Held]) -> TensorC:
        kept.append(self._memory.take(tensor, name))
        return kept[-1].c


def _held(handle: Weight | Cache) -> Held:
    if not isinstance(handle.data, Held):
        raise LibraryError(
            f"this {type(handle).__name__.lower()} is kept as {type(handle.data).__name__}; ask "
            "this backend's runtime for it"
        )
    return handle.data


_DERIVED: dict[str, Callable[[Dims], dict[str, int]]] = {
    "moe_dispatch": lambda dims: {"P": dims["T"] * dims["k"]}
}
"""Sizes of results that no argument has."""


def _empty_results(
    op: Op[..., Any], dims: Dims, given: Mapping[str, Any], memory: Device
) -> list[Held]:
    """Room for what an op returns, in the shapes and dtypes that the contract says."""
    sizes = {**dims, **_DERIVED.get(op.name, _nothing)(dims)}
    dtypes = (v.dtype for v in given.values() if isinstance(v, Tensor | Weight | Cache))
    first = next((dtype for dtype in dtypes if dtype.is_floating_point), None)
    made = []
    for array in op.results:
        allowed = array.dtypes.allowed if array.dtypes is not None else frozenset()
        dtype = next(iter(allowed)) if len(allowed) == 1 else given.get("out_dtype") or first
        assert dtype is not None  # every op without a dtype of its own takes a float
        made.append(memory.empty(tuple(_size(dim, sizes) for dim in array.dims), dtype))
    return made


def _size(dim: Dim, sizes: Mapping[str, int]) -> int:
    plus = int(dim.plus) if dim.plus.isdigit() else sizes[dim.plus]
    return sizes[dim.name] * dim.factor + plus


def _nothing(dims: Dims) -> dict[str, int]:
    return {}


def _method(op: Op[..., Any]) -> Callable[..., Any]:
    """An op as a method that calls the library."""

    def method(self: CAbiBackend, *args: Any, **kwargs: Any) -> Any:
        return self._answer(op, args, kwargs)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [own, *op.signature.parameters.values()]
    method.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    method.__name__, method.__qualname__ = op.name, f"{CAbiBackend.__qualname__}.{op.name}"
    method.in_c = True  # type: ignore[attr-defined] # what `overrides` looks for
    return method


for _op in OPS.values():
    if _op.name not in NOT_IN_ABI:
        setattr(CAbiBackend, _op.name, _method(_op))


_MADE: dict[tuple[type[CAbiBackend], Numerics], type[CAbiBackend]] = {}


def _in_profile(cls: type[CAbiBackend], numerics: Numerics) -> type[CAbiBackend]:
    """The class for another profile than the fast one, made once."""
    if (cls, numerics) not in _MADE:
        body = {"__module__": cls.__module__, "_numerics": numerics}
        name = f"{cls.__name__}{numerics.name.capitalize()}"
        _MADE[cls, numerics] = type(name, (cls,), body)
    return _MADE[cls, numerics]
