"""Weights on their way into a file, and back as constants of a graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import torch
from onnx import TensorProto
from torch import Tensor

from glm5_hal import Cache, PagedContext, Weight, WeightRole
from glm5_hal.kernels.onnx import CUT, TYPES, Digits, Wide
from glm5_hal.kernels.onnx.builder import Graph
from glm5_hal.kernels.onnx.prepare import prepared
from glm5_hal.kernels.onnx.tracing import Recording, Traced, Tracer
from glm5_hal.levels import Numerics
from glm5_hal.model.onnx_export.tensor_file import Place, TensorFile


class Keeper:
    """Remembers what a file calls the tensors that traced ones stand for.

    Args:
        file: takes them.
    """

    def __init__(self, file: TensorFile) -> None:
        self._file = file
        self._numbers: dict[int, int] = {}

    def keep(self, tensor: Tensor) -> Traced:
        """Put a tensor into the file; what comes back has no value of a graph yet."""
        made = Traced.of(None, tensor.shape, tensor.dtype)
        self._numbers[id(made)] = self._file.add(tensor)
        return made

    def number(self, tensor: Traced) -> int:
        """The file's number of a tensor."""
        return self._numbers[id(tensor)]


class Exporter(Tracer):
    """Keeps weights in a file and caches nowhere.

    Args:
        recording: takes the nodes.
        numerics: the profile.
        keeper: takes the weights.
    """

    def __init__(self, recording: Recording, numerics: Numerics, keeper: Keeper) -> None:
        super().__init__(recording)
        self._numerics, self._keep = numerics, keeper.keep

    def prepare_weight(self, role: WeightRole, tensor: Tensor) -> Weight:
        kept: object
        if role in CUT:
            made = prepared(tensor, self._numerics)
            if isinstance(made, Digits):
                kept = Digits(*map(self._keep, (made.digits, made.exponent, made.finite)))
            else:
                kept = Wide(self._keep(made.tensor))
        else:
            kept = self._keep(tensor)
        return Weight(role, tuple(tensor.shape), tensor.dtype, kept)

    def allocate_cache(self, pages: int, page_size: int, width: int, dtype: torch.dtype) -> Cache:
        rows = Traced.of(None, (pages * page_size, width), dtype)
        return Cache(pages, page_size, width, dtype, rows)

    def latent_attention(
        self,
        q_latent: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        if isinstance(indices, Traced):
            # behind the longest sequence stands padding only; without it a short one costs less
            longest = self._recording.max_length.unsqueeze(0)
            indices = Traced.of(indices.value.slice(0, longest, 1), indices.shape, indices.dtype)
        return super().latent_attention(q_latent, q_rope, cache, context, scale, indices)


def named_tensors(weights: object, prefix: str = "") -> Iterator[tuple[str, Traced]]:
    """Every tensor of a model's weights by its path, such as ``layers.0.attention.q_a.digits``."""
    if isinstance(weights, Traced):
        yield prefix, weights
    elif isinstance(weights, Weight):
        data = weights.data
        yield from named_tensors(data.tensor if isinstance(data, Wide) else data, prefix)
    elif isinstance(weights, tuple):
        for place, part in enumerate(weights):
            yield from named_tensors(part, f"{prefix}.{place}")
    elif is_dataclass(weights):
        for field in fields(weights):
            name = f"{prefix}.{field.name}".removeprefix(".")
            yield from named_tensors(getattr(weights, field.name), name)


def enter(graph: Graph, name: str, tensor: Traced, place: Place, file: str) -> None:
    """Make a tensor in a file a constant of a graph."""
    proto = TensorProto(name=name, data_type=TYPES[place.dtype], dims=place.shape)
    proto.data_location = TensorProto.EXTERNAL
    where = {"location": file, "offset": str(place.offset), "length": str(place.length)}
    for key, value in where.items():
        entry = proto.external_data.add()
        entry.key, entry.value = key, value
    tensor.value = graph.stored(proto)
