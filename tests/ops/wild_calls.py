"""Random calls of every op with values that implementations trip over, and sizes that fit nothing.

Values are drawn as bits: any bits at all, the edges of `EDGES`, numbers of one size or of all
sizes, small integers, powers of two around the thresholds, and now and then NaN and Inf. Scalars
(eps, scale) are 0 or normal numbers: subnormal ones are left out, since chips disagree on them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from glm5_hal import PagedContext, WeightRole
from glm5_hal.conformance.call import CacheValue, Call, WeightValue

EDGES = [
    *(0x00000000, 0x80000000, 0x00000001, 0x007FFFFF, 0x00800000, 0x00800001),  # 0, subnormal, tiny
    *(0x7F7FFFFF, 0xFF7FFFFF, 0x5F800000),  # the largest, 2^64
    *(0x3F800000, 0x3F7FFFFF, 0x3F800001, 0x4B000001, 0x4B7FFFFF),  # around 1, 2^23, 2^24
    *(0x26800000, 0x267FFFFF, 0x26800001, 0xA6800000, 0xA67FFFFF),  # 2^-50 from both sides
    *(0x0D800000, 0x0D7FFFFF, 0x0D800001, 0x8D7FFFFF),  # 2^-100 from both sides
]
NOT_FINITE = [0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001, 0x7F800001]
SCALES = [1.0, 0.06, 2.5, 1e-20, 3e15, 2.0**-49, -0.7, 1e-37, 0.0]
EPS = [1e-5, 1e-6, 0.0, 1e-30, 1e-37, 1e30]

Bits = npt.NDArray[np.uint32]


class Wild:
    """A stream of calls: the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.dtype = (torch.float32, torch.bfloat16)[seed % 2]

    def size(self, low: int, high: int) -> int:
        """A size in [low, high]."""
        return int(self.random.integers(low, high + 1))

    def one_of(self, values: list[Any]) -> Any:
        """One of some values."""
        return values[self.size(0, len(values) - 1)]

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """int32 in [low, high)."""
        return torch.from_numpy(self.random.integers(low, high, shape).astype(np.int32))

    @np.errstate(all="ignore")
    def float32(self, *shape: int) -> Tensor:
        """Values of one of the kinds that the module names."""
        kinds: list[Callable[[int], Bits]] = [
            *(self._any_bits, self._edges, self._one_size, self._all_sizes),
            *(self._small_integers, self._powers, self._with_nan, self._normal),
        ]
        bits = self.one_of(kinds)(int(np.prod(shape)))
        return torch.from_numpy(bits.view(np.float32)).reshape(shape)

    def act(self, *shape: int) -> Tensor:
        """The same in the activation dtype."""
        return self.float32(*shape).to(self.dtype)

    def weight(self, role: WeightRole, *shape: int) -> WeightValue:
        """A weight in either dtype; vectors and tables in float32."""
        wide = role in (WeightRole.VECTOR, WeightRole.ROPE_TABLE) or self.size(0, 1)
        values = self.float32(*shape)
        return WeightValue(role, values if wide else values.bfloat16())

    def paged(self, width: int) -> tuple[CacheValue, PagedContext]:
        """One sequence of up to 40 rows on shuffled pages, and up to 4 tokens that look at it."""
        page, rows = self.size(1, 8), self.size(1, 40)
        pages = -(-rows // page)
        table = self.random.permutation(pages + 2)[:pages].astype(np.int32)
        tokens = self.size(1, 4)
        lengths = self.integers(1, rows + 1, tokens)
        sequence = torch.zeros(tokens, dtype=torch.int32)
        context = PagedContext(torch.from_numpy(table)[None], sequence, lengths, rows)
        return CacheValue(self.act((pages + 2) * page, width), page), context

    def _any_bits(self, count: int) -> Bits:
        bits = self.random.integers(0, 1 << 32, count, dtype=np.uint32)
        finite = (bits >> 23) & 0xFF != 0xFF
        return np.where(finite, bits, bits & 0xBFFFFFFF).astype(np.uint32)

    def _edges(self, count: int) -> Bits:
        return self.random.choice(np.array(EDGES, np.uint32), count)

    def _normal(self, count: int) -> Bits:
        return self.random.standard_normal(count).astype(np.float32).view(np.uint32)

    def _one_size(self, count: int) -> Bits:
        return self._scaled(count, self.random.integers(-130, 128, 1))

    def _all_sizes(self, count: int) -> Bits:
        return self._scaled(count, self.random.integers(-60, 60, count))

    def _scaled(self, count: int, exponent: npt.NDArray[np.int64]) -> Bits:
        values = self.random.standard_normal(count) * 2.0**exponent
        return values.astype(np.float32).view(np.uint32)

    def _small_integers(self, count: int) -> Bits:
        return self.random.integers(-3, 4, count).astype(np.float32).view(np.uint32)

    def _powers(self, count: int) -> Bits:
        sign = self.random.choice([-1.0, 1.0], count)
        return (sign * 2.0 ** self.random.integers(-104, -46, count)).astype(np.float32).view("u4")

    def _with_nan(self, count: int) -> Bits:
        chosen = self.random.random(count) < 0.03
        odd = self.random.choice(np.array(NOT_FINITE, np.uint32), count)
        return np.where(chosen, odd, self._normal(count))

    # --- calls ---

    def call(self, op: str) -> Call:
        """A call of an op."""
        return Call(op, getattr(self, op)())

    def linear(self) -> dict[str, Any]:
        """T = 0 included; all three output dtypes."""
        k = self.size(1, 70)
        x, w = self.act(self.size(0, 5), k), self.weight(WeightRole.LINEAR, self.size(1, 5), k)
        return {"x": x, "w": w, "out_dtype": self.one_of([None, torch.float32, torch.bfloat16])}

    def head_linear(self) -> dict[str, Any]:
        heads, k = self.size(1, 3), self.size(1, 40)
        w = self.weight(WeightRole.HEAD_LINEAR, heads, self.size(1, 5), k)
        return {"x": self.act(self.size(0, 5), heads, k), "w": w}

    def grouped_linear(self) -> dict[str, Any]:
        rows, k, experts = self.size(0, 8), self.size(1, 40), self.size(1, 4)
        cuts = sorted(self.integers(0, rows + 1, experts - 1).tolist())
        w = self.weight(WeightRole.EXPERTS, experts, self.size(1, 5), k)
        offsets = torch.tensor([0, *cuts, rows], dtype=torch.int32)
        return {"x": self.act(rows, k), "w": w, "offsets": offsets}

    def rms_norm(self) -> dict[str, Any]:
        shape = self.size(0, 5), self.size(1, 70)
        residual = self.act(*shape) if self.size(0, 1) else None
        w = self.weight(WeightRole.VECTOR, shape[1])
        return {"x": self.act(*shape), "w": w, "eps": self.one_of(EPS), "residual": residual}

    def layer_norm(self) -> dict[str, Any]:
        shape = self.size(0, 5), self.size(1, 70)
        w, b = (self.weight(WeightRole.VECTOR, shape[1]) for _ in range(2))
        constant = self.size(0, 3) == 0
        x = self.act(1, 1).expand(shape).contiguous() if constant else self.act(*shape)
        return {"x": x, "w": w, "b": b, "eps": self.one_of(EPS)}

    def rope(self) -> dict[str, Any]:
        tokens, width, places = self.size(0, 4), 2 * self.size(1, 5), self.size(1, 8)
        return {
            "x": self.act(tokens, self.size(1, 3), width),
            "positions": self.integers(0, places, tokens),
            "table": self.weight(WeightRole.ROPE_TABLE, places, width),
            "interleaved": bool(self.size(0, 1)),
        }

    def swiglu(self) -> dict[str, Any]:
        return {"gate_up": self.act(self.size(0, 5), 2 * self.size(1, 50))}

    def latent_attention(self) -> dict[str, Any]:
        latent, turned, heads = self.size(1, 20), self.size(1, 8), self.size(1, 3)
        cache, context = self.paged(latent + turned)
        tokens = len(context.lengths)
        return {
            "q_latent": self.act(tokens, heads, latent),
            "q_rope": self.act(tokens, heads, turned),
            "cache": cache,
            "context": context,
            "scale": self.one_of(SCALES),
            "indices": self._indices(context.lengths) if self.size(0, 1) else None,
        }

    def _indices(self, lengths: Tensor) -> Tensor:
        """Some of the visible rows of each token, none at times: [T, k]."""
        k = self.size(1, 8)
        out = torch.full((len(lengths), k), -1, dtype=torch.int32)
        for token, length in enumerate(lengths.tolist()):
            rows = np.sort(self.random.permutation(length)[: self.size(0, k)])
            out[token, : len(rows)] = torch.from_numpy(rows.astype(np.int32))
        return out

    def index_scores(self) -> dict[str, Any]:
        width, heads = self.size(1, 20), self.size(1, 5)
        keys, context = self.paged(width)
        q = self.act(len(context.lengths), heads, width)
        w = self.float32(len(context.lengths), heads)
        return {"q": q, "w": w, "keys": keys, "context": context, "scale": self.one_of(SCALES)}

    def topk(self) -> dict[str, Any]:
        tokens, columns = self.size(1, 4), self.size(1, 60)
        lengths = self.integers(0, columns + 1, tokens)
        return {"scores": self.float32(tokens, columns), "lengths": lengths, "k": self.size(1, 70)}

    def moe_route(self) -> dict[str, Any]:
        groups = self.one_of([1, 2, 4])
        experts = groups * self.size(2, 6)
        allowed = self.size(1, groups)
        return {
            "logits": self.float32(self.size(0, 5), experts) * self.one_of([1, 30, 100]),
            "bias": self.weight(WeightRole.VECTOR, experts),
            "k": self.size(1, min(8, experts)),
            "n_group": groups,
            "topk_group": allowed,
            "normalize": bool(self.size(0, 1)),
            "scale": self.one_of(SCALES),
        }

    def moe_dispatch(self) -> dict[str, Any]:
        tokens, experts = self.size(0, 8), self.size(1, 8)
        ids = self.integers(0, experts, tokens, self.size(1, 3))
        return {"x": self.act(tokens, 5), "ids": ids, "experts": experts}

    def moe_combine(self) -> dict[str, Any]:
        tokens, k, width = self.size(1, 5), self.size(1, 4), self.size(1, 30)
        slots = torch.from_numpy(self.random.permutation(tokens * k).astype(np.int32))
        shared = self.act(tokens, width) if self.size(0, 1) else None
        rows, weights = self.act(tokens * k, width), self.float32(tokens, k)
        return {"rows": rows, "slots": slots, "weights": weights, "shared": shared}

    def muon_orthogonalize(self) -> dict[str, Any]:
        g = self.act(self.size(0, 2), self.size(1, 20), self.size(1, 20))
        return {"g": g, "steps": self.size(0, 6)}

    def sample(self) -> dict[str, Any]:
        tokens, ids = self.size(1, 3), self.size(1, 200)
        logits = self.float32(tokens, ids) * self.one_of([1, 5, 0.01])
        if self.size(0, 2) == 0:
            logits[self.float32(tokens, ids) > 0] = -torch.inf
        heats = [0.0, 0.8, 1.0, 2.0**-50, 2.0**-51, 1e-3, 100.0]
        limits = [1.0, 0.9, 0.5, 1e-9, 0.0, 2.0**-25, 3 * 2.0**-25, 1 - 2.0**-24]
        draws = [0, 1, (1 << 24) - 1, 1 << 23, 12345678]
        return {
            "logits": logits,
            "temperature": torch.tensor([self.one_of(heats) for _ in range(tokens)]),
            "top_p": torch.tensor([self.one_of(limits) for _ in range(tokens)]),
            "draws": torch.tensor([self.one_of(draws) for _ in range(tokens)], dtype=torch.int32),
        }
