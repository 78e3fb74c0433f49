"""Writing down what op calls are made of: a backend that computes nothing and makes nodes.

Code written against the op contract runs on it as on any other backend. Its tensors are `Traced`:
they have a shape and a dtype, and stand for a value of the graph. Between op calls the model does
no arithmetic, so a few ways of cutting and joining are all that has to be followed. Sizes that
vary are never written into a graph: nothing here looks at the number of tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from glm5_hal.backend import Backend, Capabilities
from glm5_hal.contract import OPS, Array, Dims, Op
from glm5_hal.errors import HalError
from glm5_hal.handles import Cache
from glm5_hal.kernels.onnx.builder import TYPES, Graph, Inlined, Value, concat
from glm5_hal.kernels.onnx.entry import BUILDERS, Call
from glm5_hal.kernels.onnx.signature import inputs_of, signature_of
from glm5_hal.levels import Numerics

_DTYPES = {number: dtype for dtype, number in TYPES.items()}
_END = (1 << 63) - 1


class TraceError(HalError):
    """Something between op calls that a graph cannot be made of."""


class Traced(Tensor):
    """A tensor without numbers."""

    _value: Value | None

    @staticmethod
    def of(value: Value | None, shape: Sequence[int], dtype: torch.dtype) -> Traced:
        """A tensor that stands for a value; None: which one is told later."""
        made = torch.empty(tuple(shape), dtype=dtype, device="meta").as_subclass(Traced)
        made._value = value
        return made

    @property
    def value(self) -> Value:
        """What it stands for.

        Raises:
            TraceError: that has not been told.
        """
        if self._value is None:
            raise TraceError(f"a tensor {list(self.shape)} is used that is no value of the graph")
        return self._value

    @value.setter
    def value(self, value: Value) -> None:
        self._value = value

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch on shapes alone; a tensor that it returns is made by nodes."""
        given = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **given)
        if not isinstance(result, Tensor):
            return result
        follow = _FOLLOWED.get(func)
        if follow is None:
            known = ", ".join(sorted(known.__name__ for known in _FOLLOWED))
            name = getattr(func, "__name__", func)
            raise TraceError(f"{name} between op calls is not followed; what is: {known}")
        return cls.of(follow(*args, **given), result.shape, result.dtype)


def _cat(tensors: Sequence[Traced], dim: int = 0) -> Value:
    return concat(*(tensor.value for tensor in tensors), axis=dim)


def _getitem(x: Traced, index: Any) -> Value:
    """Slices, whole numbers, None and `...`."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if any(part is Ellipsis for part in parts):
        place = next(n for n, part in enumerate(parts) if part is Ellipsis)
        named = sum(part is not None and part is not Ellipsis for part in parts)
        parts[place : place + 1] = [slice(None)] * (x.dim() - named)
    value, axis = x.value, 0
    for part in parts:
        if part is None:
            value = value.unsqueeze(axis)
        elif isinstance(part, slice):
            if part != slice(None):
                stop = _END if part.stop is None else part.stop
                value = value.slice(part.start or 0, stop, axis, part.step or 1)
        elif type(part) is int:
            value = value.gather(part, axis)
            continue
        else:
            raise TraceError(f"an index of type {type(part).__name__} is not followed")
        axis += 1
    return value


def _unflatten(x: Traced, dim: int, sizes: Sequence[int]) -> Value:
    axis = dim % x.dim()
    return x.value.reshape(*[0] * axis, *sizes, *_kept(x.shape[axis + 1 :]))


def _flatten(x: Traced, start_dim: int = 0, end_dim: int = -1) -> Value:
    if end_dim % x.dim() != x.dim() - 1:
        raise TraceError(f"flatten to dimension {end_dim} is not followed; to the last one is")
    return x.value.reshape(*[0] * (start_dim % x.dim()), -1)


def _kept(sizes: Sequence[int]) -> list[int]:
    return [int(size) for size in sizes]


def _unsqueeze(x: Traced, dim: int) -> Value:
    return x.value.unsqueeze(dim)


def _squeeze(x: Traced, dim: int) -> Value:
    return x.value.squeeze(dim)


def _contiguous(x: Traced) -> Value:
    return x.value


_FOLLOWED: dict[Callable[..., Any], Callable[..., Value]] = {
    torch.cat: _cat,
    Tensor.__getitem__: _getitem,
    Tensor.unflatten: _unflatten,
    Tensor.flatten: _flatten,
    Tensor.unsqueeze: _unsqueeze,
    Tensor.squeeze: _squeeze,
    Tensor.contiguous: _contiguous,
}


class Recording:
    """The graph that op calls go into.

    Args:
        graph: takes the nodes.
        numerics: the profile.
        max_length: length of the longest visible sequence, int64 without dimensions; needed where
            scores of whole sequences are.

    Attributes:
        graph: likewise.
    """

    def __init__(self, graph: Graph, numerics: Numerics, max_length: Value | None = None) -> None:
        self.graph, self._numerics = graph, numerics
        self._max_length = max_length
        self._calls = 0

    @property
    def max_length(self) -> Value:
        """Length of the longest visible sequence.

        Raises:
            TraceError: none was given.
        """
        if self._max_length is None:
            raise TraceError("a call looks at whole sequences, and no longest one was given")
        return self._max_length

    def begin(self, graph: Graph, max_length: Value) -> None:
        """Go on with another graph."""
        self.graph, self._max_length, self._calls = graph, max_length, 0

    def emit(self, op: Op[..., Any], arguments: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Make the nodes of one op call with traced arguments; cache_write returns nothing."""
        given = {name: self._value(name, t) for name, t in inputs_of(op.name, arguments).items()}
        scope = Inlined(self.graph, f"{self._calls}.{op.name}", given)
        self._calls += 1
        results = BUILDERS[op.name](Call(signature_of(op.name, self._numerics, arguments), scope))
        values = [self.graph.use(value) for value in results]
        if op.name == "cache_write":
            _rows(arguments["cache"]).value = values[0]
            return ()
        shapes = _shapes(op, arguments)
        return tuple(
            Traced.of(value, shape, _DTYPES[value.dtype])
            for value, shape in zip(values, shapes, strict=True)
        )

    def _value(self, name: str, tensor: Tensor) -> Value:
        if isinstance(tensor, Traced):
            return tensor.value
        if name == "max_length":
            return self.max_length
        raise TraceError(f"{name} is a tensor with numbers, not one of the graph")


class Tracer(Backend):
    """Answers every op that has a graph with the graph's nodes; composites keep their default.

    Args:
        recording: takes the nodes.
    """

    name = "onnx-graph"
    capabilities = Capabilities(
        dtypes=frozenset({torch.float32, torch.bfloat16}), profiles=frozenset(Numerics)
    )

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self._recording = recording

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        return True, "makes graphs"

    @property
    def device(self) -> torch.device:
        return torch.device("meta")


def _rows(cache: Cache) -> Traced:
    tensor = cache.tensor
    assert isinstance(tensor, Traced)
    return tensor


def _shapes(op: Op[..., Any], arguments: Mapping[str, Any]) -> list[list[int]]:
    """Shapes of an op's results, from the contract."""
    dims = op.check_arguments((), arguments)
    if op.name == "moe_dispatch":
        dims["P"] = arguments["ids"].numel()
    return [_sizes(array, dims) for array in op.results]


def _sizes(array: Array, dims: Dims) -> list[int]:
    return [
        dim.factor * dims[dim.name] + (int(dim.plus) if dim.plus.isdigit() else dims[dim.plus])
        for dim in array.dims
    ]


def _method(op: Op[..., Any]) -> Callable[..., Any]:
    """An op as a method of `Tracer`."""

    def method(self: Tracer, *args: Any, **kwargs: Any) -> Any:
        bound = op.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        results = self._recording.emit(op, bound.arguments)
        if not results:
            return None
        return results if len(results) > 1 else results[0]

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [own, *op.signature.parameters.values()]
    method.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    method.__qualname__ = f"Tracer.{op.name}"
    return method


for _name in BUILDERS:
    setattr(Tracer, _name, _method(OPS[_name]))
