"""Calls of the ops that have a fused function: at GLM-5's sizes, or at others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glm5_hal import Backend, PagedContext, WeightRole


@dataclass(frozen=True)
class Sizes:
    """GLM-5's, with a few tokens.

    Attributes:
        tokens: tokens of a call, the last ones of two sequences.
        dtype: of activations.
        weight_dtype: of matrices; None for that of activations.
        hidden: width of a row.
        heads: of attention.
        latent, rotated: parts of a cached row.
        index_heads, index_width: of the indexer.
        top: rows that the indexer chooses.
        experts, chosen, groups: of the mixture.
        inner: width of an expert.
        page_size: rows of a page.
    """

    tokens: int = 7
    dtype: torch.dtype = torch.bfloat16
    weight_dtype: torch.dtype | None = None
    hidden: int = 6144
    heads: int = 64
    latent: int = 512
    rotated: int = 64
    index_heads: int = 32
    index_width: int = 128
    top: int = 2048
    experts: int = 256
    chosen: int = 8
    groups: int = 1
    inner: int = 2048
    page_size: int = 64


Arguments = dict[str, Any]


class _Maker:
    """Zeros where a backend lies."""

    def __init__(self, backend: Backend, sizes: Sizes) -> None:
        self.backend = backend
        self.sizes = sizes

    def rows(self, *shape: int) -> Tensor:
        return self.of(self.sizes.dtype, *shape)

    def wide(self, *shape: int) -> Tensor:
        return self.of(torch.float32, *shape)

    def whole(self, *shape: int) -> Tensor:
        return self.of(torch.int32, *shape)

    def of(self, dtype: torch.dtype, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.backend.device)

    def weight(self, role: WeightRole, tensor: Tensor) -> Any:
        return self.backend.prepare_weight(role, tensor)

    def cache(self, width: int) -> Any:
        s = self.sizes
        return self.backend.allocate_cache(6, s.page_size, width, s.dtype)

    def context(self) -> PagedContext:
        longest = 3 * self.sizes.page_size
        tokens = self.sizes.tokens
        lengths = self.whole(tokens) + longest
        return PagedContext(self.whole(2, 3), self.whole(tokens), lengths, longest)


def _rms_norm(m: _Maker) -> list[Arguments]:
    s = m.sizes
    common = {"x": m.rows(s.tokens, s.hidden), "eps": 1e-5}
    common["w"] = m.weight(WeightRole.VECTOR, m.wide(s.hidden))
    return [common, {**common, "residual": m.rows(s.tokens, s.hidden)}]


def _rope(m: _Maker) -> list[Arguments]:
    s = m.sizes
    common = {
        "x": m.rows(s.tokens, s.heads, s.rotated),
        "positions": m.whole(s.tokens),
        "table": m.weight(WeightRole.ROPE_TABLE, m.wide(9, s.rotated)),
    }
    return [{**common, "interleaved": interleaved} for interleaved in (True, False)]


def _swiglu(m: _Maker) -> list[Arguments]:
    return [{"gate_up": m.rows(m.sizes.tokens, 2 * m.sizes.inner)}]


def _moe_route(m: _Maker) -> list[Arguments]:
    s = m.sizes
    common = {
        "logits": m.wide(s.tokens, s.experts),
        "bias": m.weight(WeightRole.VECTOR, m.wide(s.experts)),
        "k": s.chosen,
        "n_group": s.groups,
        "topk_group": s.groups,
        "scale": 2.5,
    }
    return [{**common, "normalize": normalize} for normalize in (True, False)]


def _moe_dispatch(m: _Maker) -> list[Arguments]:
    s = m.sizes
    ids = m.whole(s.tokens, s.chosen)
    return [{"x": m.rows(s.tokens, s.hidden), "ids": ids, "experts": s.experts}]


def _grouped_linear(m: _Maker) -> list[Arguments]:
    s = m.sizes
    matrices = m.of(s.weight_dtype or s.dtype, s.experts, 2 * s.inner, s.hidden)
    return [
        {
            "x": m.rows(s.tokens * s.chosen, s.hidden),
            "w": m.weight(WeightRole.EXPERTS, matrices),
            "offsets": m.whole(s.experts + 1),
        }
    ]


def _moe_combine(m: _Maker) -> list[Arguments]:
    s = m.sizes
    pairs = s.tokens * s.chosen
    common = {
        "rows": m.rows(pairs, s.hidden),
        "slots": m.whole(pairs),
        "weights": m.wide(s.tokens, s.chosen),
    }
    return [common, {**common, "shared": m.rows(s.tokens, s.hidden)}]


def _dsa_select(m: _Maker) -> list[Arguments]:
    s = m.sizes
    return [
        {
            "q": m.rows(s.tokens, s.index_heads, s.index_width),
            "w": m.wide(s.tokens, s.index_heads),
            "keys": m.cache(s.index_width),
            "context": m.context(),
            "scale": 0.1,
            "k": s.top,
        }
    ]


def _latent_attention(m: _Maker) -> list[Arguments]:
    s = m.sizes
    common = {
        "q_latent": m.rows(s.tokens, s.heads, s.latent),
        "q_rope": m.rows(s.tokens, s.heads, s.rotated),
        "cache": m.cache(s.latent + s.rotated),
        "context": m.context(),
        "scale": 0.1,
    }
    return [common, {**common, "indices": m.whole(s.tokens, s.top)}]


_CALLS: dict[str, Callable[[_Maker], list[Arguments]]] = {
    "rms_norm": _rms_norm,
    "rope": _rope,
    "swiglu": _swiglu,
    "moe_route": _moe_route,
    "moe_dispatch": _moe_dispatch,
    "grouped_linear": _grouped_linear,
    "moe_combine": _moe_combine,
    "dsa_select": _dsa_select,
    "latent_attention": _latent_attention,
}
OPS_CALLED = tuple(_CALLS)


def calls(op: str, backend: Backend, sizes: Sizes) -> list[Arguments]:
    """Every form of a call, as keyword arguments that lie where the backend does."""
    return _CALLS[op](_Maker(backend, sizes))
