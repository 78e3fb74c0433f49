"""The backend: every op is a graph of standard operators, run by ONNX Runtime."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from glm5_hal import (
    Backend,
    Cache,
    Capabilities,
    Level,
    Numerics,
    PagedContext,
    Weight,
    WeightRole,
    env,
)

if TYPE_CHECKING:
    from glm5_hal.backends.onnxruntime.engine import Engine

_NEEDED = ("onnx", "onnxruntime")
PROVIDER = env.Variable(
    "GLM5_HAL_ONNX_PROVIDER",
    "an execution provider",
    "CPU",
    "What ONNX Runtime computes with, by its name with or without ExecutionProvider.",
)
_SUFFIX = "ExecutionProvider"
_BLOCK = 1 << 22
"""Values, of rows or of scores, that one run may gather: longer batches are taken in blocks."""


class OnnxRuntimeBackend(Backend):
    """The fast profile; `in_profile` has the exact one."""

    name = "onnxruntime"
    aliases = ("ort",)
    variables = (PROVIDER,)
    capabilities = Capabilities(
        dtypes=frozenset({torch.float32, torch.bfloat16}),
        profiles=frozenset({Numerics.FAST, Numerics.EXACT}),
        claims=MappingProxyType(
            {
                Numerics.FAST: frozenset({Level.RUN_TO_RUN}),
                Numerics.EXACT: frozenset(Level) - {Level.TRAIN_ROLLOUT, Level.DEVICE_TO_DEVICE},
            }
        ),
        unsupported=MappingProxyType(
            {"mla_expanded": "the graphs have attention in absorbed form only"}
        ),
    )
    _numerics: ClassVar[Numerics] = Numerics.FAST

    def __init__(self, index: int = 0) -> None:
        super().__init__(index)
        from glm5_hal.backends.onnxruntime.engine import Engine

        self._engine: Engine = Engine(self._numerics, _provider())

    @classmethod
    def in_profile(cls, numerics: Numerics) -> type[Backend]:
        return OnnxRuntimeExact if numerics is Numerics.EXACT else OnnxRuntimeBackend

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        missing = [name for name in _NEEDED if not _installed(name)]
        if missing:
            are = "are" if len(missing) > 1 else "is"
            names = " and ".join(missing)
            return False, f'{names} {are} not installed: pip install "glm5-hal[onnx]"'
        wanted, offered = _provider(), _offered()
        if wanted not in offered:
            return False, (
                f"the installed ONNX Runtime has no {wanted}; it has {', '.join(offered)}. Set "
                f"{PROVIDER.name} to one of these, or install a build that has it"
            )
        return True, f"onnxruntime {_version('onnxruntime')}, {wanted}"

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @classmethod
    def versions(cls) -> dict[str, str]:
        software = {name: _version(name) for name in ("torch", *_NEEDED)}
        return {**software, "provider": _provider(), "threads": str(torch.get_num_threads())}

    # --- what it keeps ---

    def prepare_weight(self, role: WeightRole, tensor: Tensor) -> Weight:
        from glm5_hal.kernels.onnx import CUT

        kept = self._engine.prepare(tensor) if role in CUT else tensor.contiguous()
        return Weight(role, tuple(tensor.shape), tensor.dtype, kept)

    def prepare_shard(self, tensor: Tensor, start: int, stop: int) -> Weight:
        plain = super().prepare_shard(tensor, start, stop)
        shard = plain.shard
        kept = self._engine.prepare_columns(shard.columns, shard.exponents, shard.finite)
        return replace(plain, data=kept)

    def _run(self, op: str, sizes: Mapping[str, int] | None = None, **arguments: Any) -> Tensor:
        """An op with one result."""
        (result,) = self._engine.run(op, arguments, sizes)
        return result

    # --- ops ---

    def embedding(self, ids: Tensor, table: Weight) -> Tensor:
        return self._run("embedding", ids=ids, table=table)

    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        return self._run("linear", x=x, w=w, out_dtype=out_dtype)

    def head_linear(self, x: Tensor, w: Weight) -> Tensor:
        return self._run("head_linear", x=x, w=w)

    def rms_norm(
        self, x: Tensor, w: Weight, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        arguments = {"x": x, "w": w, "eps": eps, "residual": residual}
        y, h = self._engine.run("rms_norm", arguments)
        return y, h

    def layer_norm(self, x: Tensor, w: Weight, b: Weight, eps: float) -> Tensor:
        return self._run("layer_norm", x=x, w=w, b=b, eps=eps)

    def rope(self, x: Tensor, positions: Tensor, table: Weight, interleaved: bool) -> Tensor:
        return self._run("rope", x=x, positions=positions, table=table, interleaved=interleaved)

    def swiglu(self, gate_up: Tensor) -> Tensor:
        return self._run("swiglu", gate_up=gate_up)

    def cache_write(self, cache: Cache, rows: Tensor, slots: Tensor) -> None:
        if rows.shape[0]:
            # one buffer for the cache before and after: only the rows are written
            arguments = {"cache": cache, "rows": rows, "slots": slots}
            self._engine.run("cache_write", arguments, out=(cache.tensor,))

    def cache_read(self, cache: Cache, slots: Tensor) -> Tensor:
        return self._run("cache_read", cache=cache, slots=slots)

    def latent_attention(
        self,
        q_latent: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        out = torch.empty_like(q_latent, memory_format=torch.contiguous_format)
        rows = context.max_length if indices is None else indices.shape[1]
        for part in _blocks(q_latent, rows * (cache.width + 16 * q_latent.shape[1])):
            seen = _part(context, part)
            arguments = {
                "q_latent": q_latent[part],
                "q_rope": q_rope[part],
                "cache": cache,
                "context": replace(seen, max_length=int(seen.lengths.max())),
                "scale": scale,
                "indices": None if indices is None else indices[part],
            }
            self._engine.run("latent_attention", arguments, out=(out[part],))
        return out

    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        out = torch.empty(q.shape[0], context.max_length)
        for part in _blocks(q, context.max_length * (keys.width + 16 * q.shape[1])):
            arguments = {
                "q": q[part],
                "w": w[part],
                "keys": keys,
                "context": _part(context, part),
                "scale": scale,
            }
            self._engine.run("index_scores", arguments, out=(out[part],))
        return out

    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        return self._run("topk", scores=scores, lengths=lengths, k=k)

    def moe_route(
        self,
        logits: Tensor,
        bias: Weight,
        k: int,
        n_group: int,
        topk_group: int,
        normalize: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        arguments = {
            **{"logits": logits, "bias": bias, "k": k, "n_group": n_group},
            **{"topk_group": topk_group, "normalize": normalize, "scale": scale},
        }
        ids, weights = self._engine.run("moe_route", arguments)
        return ids, weights

    def moe_dispatch(self, x: Tensor, ids: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
        if not ids.numel():  # a sum over nothing is not what the runtime makes of it
            zeros = torch.zeros(experts + 1, dtype=torch.int32)
            return x.new_empty(0, x.shape[1]), zeros, zeros[:0].clone()
        arguments = {"x": x, "ids": ids, "experts": experts}
        rows, offsets, slots = self._engine.run("moe_dispatch", arguments, {"P": ids.numel()})
        return rows, offsets, slots

    def moe_combine(
        self, rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None = None
    ) -> Tensor:
        return self._run("moe_combine", rows=rows, slots=slots, weights=weights, shared=shared)

    def grouped_linear(self, x: Tensor, w: Weight, offsets: Tensor) -> Tensor:
        return self._run("grouped_linear", x=x, w=w, offsets=offsets)

    def muon_orthogonalize(self, g: Tensor, steps: int = 5) -> Tensor:
        if g.shape[1] > g.shape[2]:  # here, as an optimiser would move the graph's transposition
            return self.muon_orthogonalize(g.mT.contiguous(), steps).mT.contiguous()
        return self._run("muon_orthogonalize", g=g, steps=steps)

    def sample(self, logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> Tensor:
        return self._run("sample", logits=logits, temperature=temperature, top_p=top_p, draws=draws)


class OnnxRuntimeExact(OnnxRuntimeBackend):
    """The exact profile: the ops of ranks exist here only."""

    _numerics = Numerics.EXACT

    def row_exponents(self, x: Tensor) -> Tensor:
        return self._run("row_exponents", x=x)

    def linear_limbs(self, x: Tensor, w: Weight, exponents: Tensor) -> Tensor:
        if not x.shape[1]:  # nor is a product over nothing
            return torch.zeros(x.shape[0], w.shape[0], 3, dtype=torch.int32)
        return self._run("linear_limbs", x=x, w=w, exponents=exponents)

    def linear_from_limbs(
        self, limbs: Tensor, exponents: Tensor, w: Weight, out_dtype: torch.dtype
    ) -> Tensor:
        return self._run(
            "linear_from_limbs", limbs=limbs, exponents=exponents, w=w, out_dtype=out_dtype
        )


def _blocks(x: Tensor, cells: int) -> list[slice]:
    """Slices of the tokens of x, each of about `_BLOCK` values at `cells` a token."""
    step = max(1, _BLOCK // max(1, cells))
    return [slice(start, start + step) for start in range(0, x.shape[0], step)]


def _part(context: PagedContext, part: slice) -> PagedContext:
    return replace(context, sequence=context.sequence[part], lengths=context.lengths[part])


def _provider() -> str:
    """The execution provider that the environment asks for, by its full name."""
    asked = env.read(PROVIDER) or PROVIDER.default
    full = asked if asked.endswith(_SUFFIX) else asked + _SUFFIX
    known = {provider.lower(): provider for provider in _offered()}
    return known.get(full.lower(), full)


def _offered() -> list[str]:
    """Execution providers of the installed runtime; none where there is no runtime."""
    if not _installed("onnxruntime"):
        return []
    import onnxruntime

    return [str(provider) for provider in onnxruntime.get_available_providers()]


def _installed(package: str) -> bool:
    """Whether a package can be imported; a folder that happens to have its name has no origin."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def _version(package: str) -> str:
    """Version of an installed package, ``none`` where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
