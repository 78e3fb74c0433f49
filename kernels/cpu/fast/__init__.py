"""The fast profile's kernels for the host: one source, built for several instruction sets.

Importing fails where the extension was not built. Tensors are on the host. Every element of a
product is summed in one order along K, whatever the shape of the call, so a row's bytes depend on
the row alone; a mode names an instruction set and may give other bytes than another.
"""

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glm5_hal.handles import Cache, PagedContext
from glm5_hal.kernels.cpu.tape import run

_fast: Any = importlib.import_module("glm5_hal.kernels.cpu.fast._fast")

ROWS, DEPTH = 16, 32
"""Columns of a packed block, and terms along K of one step."""

MODES: tuple[str, ...] = _fast.modes
"""Instruction sets that can be used here, best first."""
COMPILER: str = _fast.compiler


@dataclass(frozen=True)
class Packed:
    """Matrices [E, N, K] in the layout that products take.

    Attributes:
        blocks: flat, in the matrices' dtype: [E, N / 16, K / 32], each block as kernels/cpu/fast
            says, zeros behind N and K.
        shape: (E, N, K).
        handle: the same for the extension.
    """

    blocks: Tensor
    shape: tuple[int, int, int]
    handle: Any

    def plain(self) -> Tensor:
        """The matrices [E, N, K] again."""
        count, rows, length = self.shape
        tall, deep = -(-rows // ROWS), -(-length // DEPTH)
        # neighbours along K that stand together: two bfloat16, one float32
        pair = 4 // self.blocks.element_size()
        parts = self.blocks.view(count, tall, deep, DEPTH // pair, ROWS, pair)
        whole = parts.permute(0, 1, 4, 2, 3, 5).reshape(count, tall * ROWS, deep * DEPTH)
        return whole[:, :rows, :length].contiguous()


def _rows(x: Tensor) -> Tensor:
    """`x`, its last dimension contiguous."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


class Fast:
    """The kernels in one mode, on as many threads as torch uses."""

    def __init__(self, mode: str = MODES[0]) -> None:
        if mode not in MODES:
            raise ValueError(f"no mode {mode!r} on this machine; it has {', '.join(MODES)}")
        self.mode = mode
        self._mill = _fast.Mill(mode)

    def pack(self, w: Tensor) -> Packed:
        """Matrices [E, N, K] in the layout of products."""
        count, rows, length = w.shape
        size = count * -(-rows // ROWS) * -(-length // DEPTH) * ROWS * DEPTH
        blocks = torch.empty(size, dtype=w.dtype)
        handle = _fast.Packed(blocks, count, rows, length, w.dtype == torch.bfloat16)
        self._mill.pack(torch.get_num_threads(), _rows(w), handle)
        return Packed(blocks, (count, rows, length), handle)

    def linear(self, x: Tensor, w: Packed, dtype: torch.dtype) -> Tensor:
        """x [T, K] times w [1, N, K]: [T, N]."""
        out = torch.empty(x.shape[0], w.shape[1], dtype=dtype)
        run(self._mill.linear, torch.get_num_threads(), _rows(x), w.handle, out)
        return out

    def grouped_linear(self, x: Tensor, w: Packed, offsets: Tensor) -> Tensor:
        """Rows [P, N]: x[offsets[e] : offsets[e + 1]] times w[e]."""
        out = torch.empty(x.shape[0], w.shape[1], dtype=x.dtype)
        threads = torch.get_num_threads()
        run(self._mill.grouped_linear, threads, _rows(x), w.handle, offsets.contiguous(), out)
        return out

    def head_linear(self, x: Tensor, w: Packed) -> Tensor:
        """[T, H, N]: x[:, h] times w[h] for x [T, H, K]."""
        out = torch.empty(*x.shape[:2], w.shape[1], dtype=x.dtype)
        run(self._mill.head_linear, torch.get_num_threads(), _rows(x), w.handle, out)
        return out

    def experts(
        self,
        x: Tensor,
        ids: Tensor,
        weights: Tensor,
        gate_up: Packed,
        down: Packed,
        shared: Tensor | None,
    ) -> Tensor:
        """[T, D]: each token's experts by ids [T, k], weighted, then the shared rows."""
        out = torch.empty(x.shape[0], down.shape[1], dtype=x.dtype)
        other = None if shared is None else _rows(shared)
        run(
            self._mill.experts,
            *(torch.get_num_threads(), _rows(x), ids.contiguous(), weights.contiguous()),
            *(gate_up.handle, down.handle, other, out),
        )
        return out

    def rms_norm(
        self, x: Tensor, w: Tensor, eps: float, residual: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(y, h), each [T, D]."""
        y = torch.empty(x.shape, dtype=x.dtype)
        threads = torch.get_num_threads()
        if residual is None:
            run(self._mill.rms_norm, threads, _rows(x), None, w, eps, None, y)
            return y, x
        h = torch.empty(x.shape, dtype=x.dtype)
        run(self._mill.rms_norm, threads, _rows(x), _rows(residual), w, eps, h, y)
        return y, h

    def layer_norm(self, x: Tensor, w: Tensor, b: Tensor, eps: float) -> Tensor:
        """[T, D]."""
        y = torch.empty(x.shape, dtype=x.dtype)
        run(self._mill.layer_norm, torch.get_num_threads(), _rows(x), w, b, eps, y)
        return y

    def rope(self, x: Tensor, positions: Tensor, table: Tensor, interleaved: bool) -> Tensor:
        """x [T, H, R] turned by rows of table [P, R]: cosines, then sines."""
        out = torch.empty(x.shape, dtype=x.dtype)
        threads = torch.get_num_threads()
        run(self._mill.rope, threads, _rows(x), positions.contiguous(), table, interleaved, out)
        return out

    def swiglu(self, gate_up: Tensor) -> Tensor:
        """[T, I] from [T, 2I]."""
        out = torch.empty(gate_up.shape[0], gate_up.shape[1] // 2, dtype=gate_up.dtype)
        run(self._mill.swiglu, torch.get_num_threads(), _rows(gate_up), out)
        return out

    def combine(
        self, rows: Tensor, places: Tensor, weights: Tensor, shared: Tensor | None
    ) -> Tensor:
        """[T, D] from rows [P, D]; `places` [T, k] int32 says which row a slot has."""
        out = torch.empty(weights.shape[0], rows.shape[1], dtype=rows.dtype)
        other = None if shared is None else _rows(shared)
        run(
            self._mill.combine,
            *(torch.get_num_threads(), _rows(rows), places.contiguous(), weights.contiguous()),
            *(other, out),
        )
        return out

    def route(
        self,
        logits: Tensor,
        bias: Tensor,
        k: int,
        groups: tuple[int, int],
        normalize: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        """(ids int32, weights float32), each [T, k]; groups: how many, and how many are kept."""
        ids = torch.empty(logits.shape[0], k, dtype=torch.int32)
        weights = torch.empty(logits.shape[0], k)
        run(
            self._mill.route,
            *(torch.get_num_threads(), logits.contiguous(), bias, *groups, normalize, scale),
            *(ids, weights),
        )
        return ids, weights

    def cache_write(self, cache: Tensor, rows: Tensor, slots: Tensor) -> None:
        """Rows [T, W] to distinct slots [T] of cache [slots, W]."""
        run(self._mill.cache_write, cache, _rows(rows), slots.contiguous())

    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        """[T, max_length] float32, -Inf behind each length."""
        out = torch.full((q.shape[0], context.max_length), -torch.inf)
        run(
            self._mill.index_scores,
            *(torch.get_num_threads(), _rows(q), w.contiguous(), scale),
            *(*_paging(keys, context), out),
        )
        return out

    def dsa_select(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float, k: int
    ) -> Tensor:
        """[T, k] int32: `topk` of `index_scores`."""
        out = torch.empty(q.shape[0], k, dtype=torch.int32)
        run(
            self._mill.dsa_select,
            *(torch.get_num_threads(), _rows(q), w.contiguous(), scale),
            *(*_paging(keys, context), out),
        )
        return out

    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        """[T, k] int32."""
        out = torch.empty(scores.shape[0], k, dtype=torch.int32)
        run(self._mill.topk, torch.get_num_threads(), _rows(scores), lengths.contiguous(), out)
        return out

    def attention(
        self,
        q_latent: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        scale: float,
        indices: Tensor | None,
    ) -> Tensor:
        """[T, H, C]."""
        out = torch.empty(q_latent.shape, dtype=q_latent.dtype)
        chosen = None if indices is None else indices.contiguous()
        run(
            self._mill.attention,
            *(torch.get_num_threads(), _rows(q_latent), _rows(q_rope)),
            *(*_paging(cache, context), scale, chosen, out),
        )
        return out


def _paging(cache: Cache, context: PagedContext) -> tuple[Any, ...]:
    """Where cached rows lie, as the extension takes it."""
    return (
        *(cache.tensor, cache.page_size, context.page_table.contiguous()),
        *(context.sequence.contiguous(), context.lengths.contiguous()),
    )
