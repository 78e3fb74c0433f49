"""What decides a graph, and what is fed to it: both read off the arguments of an op call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glm5_hal.contract import OPS
from glm5_hal.handles import Cache, PagedContext, RowShard, Weight, WeightRole
from glm5_hal.levels import Numerics

CUT = frozenset({WeightRole.LINEAR, WeightRole.HEAD_LINEAR, WeightRole.EXPERTS})
"""Weights that are contracted with; the others are used as they are."""


@dataclass(frozen=True)
class Digits:
    """A weight [..., N, K], or columns of one, fixed for the exact profile.

    Attributes:
        digits: [n, ..., K, N] int8, lowest first.
        exponent: [..., N] int64.
        finite: [..., N] bool.
    """

    digits: Tensor
    exponent: Tensor
    finite: Tensor


@dataclass(frozen=True)
class Wide:
    """A weight [..., N, K] as the fast profile multiplies by it: [..., K, N] float32."""

    tensor: Tensor


@dataclass(frozen=True)
class Signature:
    """Everything about a call that its graph depends on; all else is dynamic.

    Attributes:
        op: name of the op.
        numerics: the profile.
        dtypes: logical dtype of every tensor, weight and cache that was given.
        prepared: names of the weights that come in the backend's own form.
        options: every other argument, and the sizes that are written into the graph.
    """

    op: str
    numerics: Numerics
    dtypes: tuple[tuple[str, torch.dtype], ...]
    prepared: frozenset[str]
    options: tuple[tuple[str, Any], ...]

    def dtype(self, name: str) -> torch.dtype:
        """Dtype of an argument."""
        return dict(self.dtypes)[name]

    def has(self, name: str) -> bool:
        """Whether an optional tensor was given."""
        return name in dict(self.dtypes)

    def option(self, name: str) -> Any:
        """A plain argument or a size."""
        return dict(self.options)[name]

    @property
    def exact(self) -> bool:
        """Whether the graph gives the exact profile's bytes."""
        return self.numerics is Numerics.EXACT


_SIZES: dict[str, tuple[tuple[str, str, int], ...]] = {
    "latent_attention": (("C", "q_latent", 2),),
    "index_scores": (("H", "q", 1),),
    "moe_combine": (("k", "weights", 1),),
}
"""Sizes that a graph is unrolled over or cut at: name, argument and axis."""


def signature_of(op: str, numerics: Numerics, arguments: Mapping[str, Any]) -> Signature:
    """The signature of a call.

    Args:
        op: name of the op.
        numerics: the profile.
        arguments: by name; weights and caches as handles. Defaults may be left out.
    """
    full = _with_defaults(op, arguments)
    dtypes = {n: v.dtype for n, v in full.items() if isinstance(v, Tensor | Weight | Cache)}
    prepared = {
        name
        for name, value in full.items()
        if isinstance(value, Weight) and isinstance(value.data, Digits | Wide)
    }
    plain = (int, float, bool, torch.dtype)
    options = {n: v for n, v in full.items() if isinstance(v, plain)}
    options |= {size: full[name].shape[axis] for size, name, axis in _SIZES.get(op, ())}
    for cache in (value for value in full.values() if isinstance(value, Cache)):
        options["page_size"] = cache.page_size
    if op == "muon_orthogonalize":
        options["tall"] = full["g"].shape[1] > full["g"].shape[2]
    return Signature(
        op, numerics, tuple(dtypes.items()), frozenset(prepared), tuple(sorted(options.items()))
    )


def inputs_of(op: str, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """The inputs of a call's graph by name, as host tensors that share memory where they can."""
    found: dict[str, Tensor] = {}
    full = _with_defaults(op, arguments)
    for name, value in full.items():
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, Cache):
            found[name] = value.tensor
        elif isinstance(value, PagedContext):
            found["page_table"] = value.page_table
            found["sequence"] = value.sequence
            if full.get("indices") is None:
                found["lengths"] = value.lengths
                found["max_length"] = torch.tensor(value.max_length)
        elif isinstance(value, Weight):
            found |= _weight_inputs(name, value)
    return {name: tensor.contiguous() for name, tensor in found.items()}


def _weight_inputs(name: str, weight: Weight) -> dict[str, Tensor]:
    data = weight.data
    if isinstance(data, Digits):
        parts = {"digits": data.digits, "exponent": data.exponent, "finite": data.finite}
    elif isinstance(data, RowShard):
        parts = {"columns": data.columns, "exponent": data.exponents, "finite": data.finite}
    else:
        return {name: data.tensor if isinstance(data, Wide) else weight.tensor}
    return {f"{name}.{part}": tensor for part, tensor in parts.items()}


def _with_defaults(op: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    bound = OPS[op].signature.bind(**arguments)
    bound.apply_defaults()
    return dict(bound.arguments)
