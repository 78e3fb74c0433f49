"""The exact profile's kernels for the host: one source, built for several instruction sets.

Importing fails where the extension was not built. Tensors are on the host; a mode names an
instruction set and changes no byte.
"""

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glm5_hal.errors import ContractError
from glm5_hal.exact import LONGEST, digits_of

_exact: Any = importlib.import_module("glm5_hal.kernels.cpu._exact")

ROWS, DEPTH = 16, 64
"""Rows and elements along K of a packed block."""

MODES: tuple[str, ...] = _exact.modes
"""Instruction sets that can be used here, best first."""
COMPILER: str = _exact.compiler


@dataclass(frozen=True)
class Digits:
    """Matrices [E, N, K] as int8 digits, in the layout that products take.

    Attributes:
        blocks: [E, ceil(N / 16), ceil(K / 64), digits, 1024] uint8.
        units: [E, 16 * ceil(N / 16)] float64, 2^(exponent - bits) of each row; NaN for rows that
            hold NaN or Inf.
        shape: (E, N, K).
    """

    blocks: Tensor
    units: Tensor
    shape: tuple[int, int, int]

    @property
    def digits(self) -> int:
        """How many int8 digits hold an integer."""
        return self.blocks.shape[3]

    @property
    def finite(self) -> Tensor:
        """[E, N] bool: rows without NaN and Inf."""
        return ~self.units[:, : self.shape[1]].isnan()

    @property
    def exponents(self) -> Tensor:
        """[E, N] int64, as `glm5_hal.exact.fixed` defines them."""
        power = torch.frexp(self.units[:, : self.shape[1]]).exponent.long() - 1
        return torch.where(self.finite, power + 8 * self.digits - 2, -126)


def view(x: Tensor) -> Any:
    """A numpy array on the same memory, bfloat16 as int16; its last dimension contiguous."""
    if x.shape[-1] > 1 and x.stride(-1) != 1:
        x = x.contiguous()
    x = x.detach()
    return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()


def flat(x: Tensor) -> Any:
    """A contiguous numpy array."""
    return view(x.contiguous())


def longest(length: int) -> None:
    """Refuse sums that the exact profile does not define."""
    if length > LONGEST:
        raise ContractError(
            f"a sum of {length:,} products; the exact profile is defined to {LONGEST:,}"
        )


class Exact:
    """The kernels in one mode, on as many threads as torch uses."""

    def __init__(self, mode: str = MODES[0]) -> None:
        if mode not in MODES:
            raise ValueError(f"no mode {mode!r} on this machine; it has {', '.join(MODES)}")
        self.mode = mode

    def _context(self) -> Any:
        return _exact.Context(self.mode, torch.get_num_threads())

    def pack(self, w: Tensor, digits: int | None = None, exponents: Tensor | None = None) -> Digits:
        """Cut matrices [E, N, K] to digits; `exponents` [E, N] int64 from outside, or the rows'."""
        count, rows, length = w.shape
        digits = digits or digits_of(w.dtype)
        tall, deep = -(-rows // ROWS), -(-length // DEPTH)
        blocks = torch.empty(count, tall, deep, digits, ROWS * DEPTH, dtype=torch.uint8)
        units = torch.empty(count, tall * ROWS, dtype=torch.float64)
        given = None if exponents is None else flat(exponents)
        _exact.pack(self._context(), view(w), given, view(blocks), view(units))
        return Digits(blocks, units, (count, rows, length))

    def linear(self, x: Tensor, w: Digits, dtype: torch.dtype) -> Tensor:
        """x [T, K] times w [1, N, K]: [T, N]."""
        return self._linear(x, w, None, dtype)

    def linear_sums(self, x: Tensor, w: Digits, exponents: Tensor) -> Tensor:
        """Exact sums [T, N] int64 of x [T, K] fixed with `exponents` [T] int64 given from outside.

        Rows of x that hold NaN or Inf count as zeros.
        """
        return self._linear(x, w, flat(exponents), torch.int64)

    def _linear(self, x: Tensor, w: Digits, exponents: Any, dtype: torch.dtype) -> Tensor:
        longest(x.shape[1])
        out = torch.empty(x.shape[0], w.shape[1], dtype=dtype)
        _exact.linear(self._context(), view(x), exponents, view(w.blocks), view(w.units), view(out))
        return out

    def grouped_linear(self, x: Tensor, w: Digits, offsets: Tensor) -> Tensor:
        """Rows [P, N]: x[offsets[e] : offsets[e + 1]] times w[e]."""
        longest(x.shape[1])
        out = torch.empty(x.shape[0], w.shape[1], dtype=x.dtype)
        _exact.grouped_linear(
            self._context(), view(x), flat(offsets), view(w.blocks), view(w.units), view(out)
        )
        return out

    def head_linear(self, x: Tensor, w: Digits) -> Tensor:
        """[T, H, N]: x[:, h] times w[h] for x [T, H, K]."""
        longest(x.shape[2])
        out = torch.empty(*x.shape[:2], w.shape[1], dtype=x.dtype)
        _exact.head_linear(self._context(), view(x), view(w.blocks), view(w.units), view(out))
        return out

    def rms_norm(
        self, x: Tensor, w: Tensor, eps: float, residual: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(y, h), each [T, D]."""
        longest(x.shape[1])
        y = torch.empty(x.shape, dtype=x.dtype)
        h = x if residual is None else torch.empty_like(y)
        other = None if residual is None else view(residual)
        _exact.rms_norm(self._context(), view(x), other, flat(w), eps, view(h), view(y))
        return y, h

    def layer_norm(self, x: Tensor, w: Tensor, b: Tensor, eps: float) -> Tensor:
        """[T, D]."""
        longest(x.shape[1])
        y = torch.empty(x.shape, dtype=x.dtype)
        _exact.layer_norm(self._context(), view(x), flat(w), flat(b), eps, view(y))
        return y

    def rope(self, x: Tensor, angles: Tensor, interleaved: bool) -> Tensor:
        """x [T, H, R] turned by angles [T, R]: cosines, then sines."""
        out = torch.empty(x.shape, dtype=x.dtype)
        _exact.rope(self._context(), view(x), flat(angles), interleaved, view(out))
        return out

    def swiglu(self, gate_up: Tensor) -> Tensor:
        """[T, I] from [T, 2I]."""
        out = torch.empty(gate_up.shape[0], gate_up.shape[1] // 2, dtype=gate_up.dtype)
        _exact.swiglu(self._context(), view(gate_up), view(out))
        return out

    def combine(
        self, rows: Tensor, places: Tensor, weights: Tensor, shared: Tensor | None
    ) -> Tensor:
        """[T, D] from rows [P, D]; `places` [T, k] int32 says which row a slot has."""
        out = torch.empty(weights.shape[0], rows.shape[1], dtype=rows.dtype)
        other = None if shared is None else view(shared)
        _exact.combine(self._context(), view(rows), flat(places), flat(weights), other, view(out))
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
        _exact.route(
            *(self._context(), flat(logits), flat(bias), *groups, normalize, scale),
            *(view(ids), view(weights)),
        )
        return ids, weights

    def index_scores(
        self, q: Tensor, weights: Tensor, keys: Tensor, paging: "Paging", columns: int
    ) -> Tensor:
        """[T, columns] float32, -Inf behind each length; `weights` [T, H] are scaled already."""
        longest(q.shape[2])
        out = torch.full((q.shape[0], columns), -torch.inf)
        _exact.index_scores(
            self._context(), view(q), flat(weights), view(keys), *paging.arrays(), view(out)
        )
        return out

    def dsa_select(
        self, q: Tensor, weights: Tensor, keys: Tensor, paging: "Paging", k: int
    ) -> Tensor:
        """[T, k] int32: `topk` of `index_scores`."""
        longest(q.shape[2])
        out = torch.empty(q.shape[0], k, dtype=torch.int32)
        _exact.dsa_select(
            self._context(), view(q), flat(weights), view(keys), *paging.arrays(), view(out)
        )
        return out

    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        """[T, k] int32."""
        out = torch.empty(scores.shape[0], k, dtype=torch.int32)
        _exact.topk(self._context(), view(scores), flat(lengths), view(out))
        return out

    def attention(
        self,
        q_latent: Tensor,
        q_rope: Tensor,
        cache: Tensor,
        paging: "Paging",
        factor: float,
        indices: Tensor | None,
    ) -> Tensor:
        """[T, H, C]; `factor` is a float32."""
        longest(max(q_latent.shape[2], q_rope.shape[2]))
        out = torch.empty(q_latent.shape, dtype=q_latent.dtype)
        chosen = None if indices is None else flat(indices)
        _exact.attention(
            *(self._context(), view(q_latent), view(q_rope), view(cache), *paging.arrays()),
            *(factor, chosen, view(out)),
        )
        return out

    def sample(self, logits: Tensor, temperature: Tensor, limits: Tensor, draws: Tensor) -> Tensor:
        """Ids [T] int32; `limits` [T] int64 in 2^-24, negative for the largest logit."""
        out = torch.empty(logits.shape[0], dtype=torch.int32)
        _exact.sample(
            *(self._context(), view(logits), flat(temperature), flat(limits), flat(draws)),
            view(out),
        )
        return out


@dataclass(frozen=True)
class Paging:
    """Where cached rows lie: `PagedContext` without its maximum, and the page size."""

    page_size: int
    table: Tensor
    sequence: Tensor
    lengths: Tensor

    def arrays(self) -> tuple[Any, ...]:
        """As the extension takes it."""
        return self.page_size, flat(self.table), flat(self.sequence), flat(self.lengths)
