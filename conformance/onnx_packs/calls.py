"""Seeing the op calls of a check, and answering them from elsewhere."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from glm5_hal import Plan, Runtime
from glm5_hal.backend import Backend
from glm5_hal.conformance.compare import words
from glm5_hal.conformance.reference_backend import reference_runtime
from glm5_hal.contract import Op
from glm5_hal.kernels.onnx import inputs_of, signature_of
from glm5_hal.levels import Numerics

P = ParamSpec("P")
R = TypeVar("R")

Results = tuple[Tensor, ...]


class AskedCall:
    """One op call of a check.

    Attributes:
        op: name of the op.
        arguments: by name, with defaults.
        inputs: of the op's graph, as they were before the call.
        key: of op, options and inputs: equal calls are one.
    """

    def __init__(self, op: Op[..., Any], numerics: Numerics, args: Any, kwargs: Any) -> None:
        bound = op.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        self.op = op.name
        self.arguments: dict[str, Any] = dict(bound.arguments)
        self.signature = signature_of(op.name, numerics, self.arguments)
        self.inputs = {n: t.clone() for n, t in inputs_of(op.name, self.arguments).items()}
        self.key = self._key()

    def _key(self) -> str:
        total = hashlib.sha256(repr(self.signature).encode())
        for name, tensor in self.inputs.items():
            total.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            total.update(words(tensor).numpy().tobytes())
        return total.hexdigest()

    def results(self, result: Any) -> Results:
        """What a call gave; of cache_write the cache afterwards."""
        if result is None:
            return (self.arguments["cache"].tensor.clone(),)
        return result if isinstance(result, tuple) else (result,)

    def result(self, results: Results) -> Any:
        """What a call returns whose results are these; cache_write writes them."""
        if self.op == "cache_write":
            self.arguments["cache"].tensor.copy_(results[0])
            return None
        return results if len(results) > 1 else results[0]


Taker = Callable[[AskedCall, Results], None]
Giver = Callable[[AskedCall], Results]


class _Definitions(Runtime):
    """The definitions' backend, asked by a check."""

    def __init__(self, numerics: Numerics) -> None:
        known = reference_runtime(numerics)
        plan: Plan = known.plan
        backend: Backend = known.backend
        super().__init__(plan, backend)


class RecordingRuntime(_Definitions):
    """Answers by the definitions, and tells of every call but those that composites make.

    Args:
        numerics: the profile.
        take: told each call and its results.
    """

    def __init__(self, numerics: Numerics, take: Taker) -> None:
        super().__init__(numerics)
        self._take = take
        self._inside = False

    def call(self, op: Op[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        if self._inside:
            return super().call(op, *args, **kwargs)
        asked = AskedCall(op, self.plan.numerics, args, kwargs)
        self._inside = True
        try:
            result = super().call(op, *args, **kwargs)
        finally:
            self._inside = False
        self._take(asked, asked.results(result))
        return result


class ReplayingRuntime(_Definitions):
    """Answers by results that were computed elsewhere.

    Args:
        numerics: the profile.
        give: the results of a call; raises what the check is to fail with.
    """

    def __init__(self, numerics: Numerics, give: Giver) -> None:
        super().__init__(numerics)
        self._give = give

    def call(self, op: Op[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        dims = op.check_arguments(args, kwargs)
        asked = AskedCall(op, self.plan.numerics, args, kwargs)
        result: R = asked.result(self._give(asked))
        op.check_result(result, dims, "results")
        return result


def is_empty(tensors: Mapping[str, Tensor] | Results) -> bool:
    """Whether one of some tensors has no elements."""
    parts = tensors.values() if isinstance(tensors, Mapping) else tensors
    return any(not part.numel() for part in parts)


def fingerprint(tensor: Tensor) -> bytes:
    """Of dtype, shape and bytes."""
    form = f"{tensor.dtype} {list(tensor.shape)}".encode()
    return hashlib.sha256(form + words(tensor.to(torch.device("cpu"))).numpy().tobytes()).digest()
