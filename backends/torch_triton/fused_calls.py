"""What fused ops of different vendors have in common: the contract's layouts made theirs.

Everything here is submitted to the device and asks no tensor for its values.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from glm5_hal import Backend, Cache, PagedContext, Weight
from glm5_hal.ops.moe_route import TINY_TOTAL

Function = Callable[..., Any]
"""A vendor's function."""
Call = Callable[..., Any]
"""The function and the backend, then the op's arguments, to the op's result: see `Fused.call`."""

SPARSE_KEPT = MappingProxyType(
    {
        "ATTENTION-2": "without indices the portable kernel runs",
        "ATTENTION-3": "the slots are looked up here, up to a row's first -1",
    }
)
SPARSE_OPEN = MappingProxyType(
    {
        "RUN-1": "no word on the order of sums",
        "ATTENTION-1": "no bound of the error is published",
        "ATTENTION-4": "not kept: without indices another kernel runs",
        "ATTENTION-5": "no word on batch invariance",
        "ATTENTION-6": "FlashMLA's own reference multiplies row 0 by zero where there is no row: "
        "NaN in it may spread",
    }
)
SCORES_KEPT = MappingProxyType(
    {
        "INDEX-SCORES-2": "masked here",
        "INDEX-SCORES-4": "zeros add up to a zero, whose sign is taken here",
    }
)
SCORES_OPEN = MappingProxyType(
    {
        "RUN-1": "no word on the order of sums",
        "INDEX-SCORES-1": "no bound of the error is published",
        "INDEX-SCORES-3": "no word on batch invariance",
    }
)
TOPK_KEPT = MappingProxyType({"TOPK-2": "sorted here", "TOPK-3": "what is left over stays -1"})
TOPK_OPEN = MappingProxyType(
    {
        "RUN-1": "among equals at the boundary any may be taken",
        "TOPK-1": "no word on the order of equals",
        "TOPK-4": "no word on zeros of either sign and on NaN",
        "TOPK-5": "no word on batch invariance",
    }
)
ROUTE_KEPT = MappingProxyType(
    {"ROUTE-4": "sorted here", "ROUTE-5": "the weights are computed here"}
)
ROUTE_OPEN = MappingProxyType(
    {
        "RUN-1": "no word on the order of equals",
        "ROUTE-1": "the error of the sigmoids that choose is not published",
        "ROUTE-2": "no word on the arithmetic of a group's score",
        "ROUTE-3": "no word on the order of equals",
        "ROUTE-6": "no word on batch invariance",
    }
)
GROUPED_KEPT = MappingProxyType({"GROUPED-LINEAR-3": "such experts own no rows of the list"})
GROUPED_OPEN = MappingProxyType(
    {
        "RUN-1": "no word on the order of sums",
        "GROUPED-LINEAR-1": "no bound of the error is published",
        "GROUPED-LINEAR-2": "no word on batch invariance",
    }
)
SWIGLU_KEPT = MappingProxyType(
    {"RUN-1": "nothing is summed", "SWIGLU-2": "computed element by element"}
)
SWIGLU_OPEN = MappingProxyType(
    {
        "SWIGLU-1": "no bound of the error is published",
        "SWIGLU-3": "no word on large and infinite gates",
    }
)
"""What each op's promises rest on, where a vendor's own source says no more."""

LATENT, ROTARY = 512, 64
"""Values of a cached row that FlashMLA's sparse kernels are made for."""
INDEX_WIDTH, INDEX_PAGE = 128, 64
"""Width of index keys and rows a page in every published call of a paged indexer."""
_LAST = torch.iinfo(torch.int32).max


# --- sparse attention ---


def sparse_obstacle(
    backend: Backend,
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Cache,
    context: PagedContext,
    scale: float,
    indices: Tensor | None = None,
) -> str | None:
    """Why FlashMLA's sparse kernel cannot compute this attention."""
    if indices is None:
        return "attention without indices; it takes a list of rows"
    if q_latent.dtype is not torch.bfloat16 or cache.dtype is not torch.bfloat16:
        return f"{q_latent.dtype} queries and {cache.dtype} rows; it takes bfloat16"
    if (q_latent.shape[-1], q_rope.shape[-1]) != (LATENT, ROTARY):
        return (
            f"rows of {q_latent.shape[-1]} + {q_rope.shape[-1]} values; it takes "
            f"{LATENT} + {ROTARY}"
        )
    return None


@dataclass(frozen=True)
class SparseQuery:
    """What sparse attention is asked for, as vendors' functions want it.

    Attributes:
        q_latent: [T, H, C].
        q_rope: [T, H, R].
        cache: of rows [C + R].
        context: of the tokens.
        scale: of the scores.
        indices: positions [T, k], padded with -1.
    """

    q_latent: Tensor
    q_rope: Tensor
    cache: Cache
    context: PagedContext
    scale: float
    indices: Tensor

    def query(self, multiple: int = 1) -> Tensor:
        """[T, H', C + R]: both parts, heads rounded up to a multiple with zeros."""
        query = torch.cat((self.q_latent, self.q_rope), dim=-1)
        return torch.nn.functional.pad(query, (0, 0, 0, -query.shape[1] % multiple))

    def slots(self, multiple: int = 1) -> Tensor:
        """[T, k'] int32, -1 from a row's first -1 on; k rounded up to a multiple with -1."""
        indices, page_size = self.indices, self.cache.page_size
        width = indices.shape[1]
        place = torch.arange(width, dtype=torch.int32, device=indices.device)
        if width:
            named = torch.where(indices < 0, place, width).amin(1, keepdim=True)
            indices = torch.where(place < named, indices, -1)
        seen = indices.clamp(min=0)
        pages = self.context.page_table.shape[1]
        where = self.context.sequence.long().unsqueeze(1) * pages + seen // page_size
        page = self.context.page_table.reshape(-1)[where]
        slots = torch.where(indices < 0, -1, page * page_size + seen % page_size).int()
        return torch.nn.functional.pad(slots, (0, -width % multiple), value=-1)


def attention(compute: Callable[[Function, SparseQuery], Tensor]) -> Call:
    """`latent_attention` by a vendor's function that takes a list of rows."""

    @functools.wraps(compute)
    def call(
        function: Function,
        backend: Backend,
        q_latent: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        scale: float,
        indices: Tensor,
    ) -> Tensor:
        if not q_latent.shape[0]:
            return torch.empty_like(q_latent)
        return compute(function, SparseQuery(q_latent, q_rope, cache, context, scale, indices))

    return call


def flash_mla_sparse(function: Function, asked: SparseQuery, heads: int) -> Tensor:
    """A function with the signature of ``flash_mla_sparse_fwd``, heads filled up to a multiple.

    Its arguments are q [s_q, h_q, 576], kv [s_kv, 1, 576] and indices [s_q, 1, topk], where -1
    stands for no row; it returns the output [s_q, h_q, 512] first. All pages of the cache are kv.
    Source: deepseek-ai/FlashMLA, flash_mla/flash_mla_interface.py.
    """
    out: Tensor = function(
        q=asked.query(heads),
        kv=asked.cache.tensor.unsqueeze(1),
        indices=asked.slots(128).unsqueeze(1),
        sm_scale=asked.scale,
        d_v=LATENT,
    )[0]
    return out[:, : asked.q_latent.shape[1]].contiguous()


# --- indexer ---


@dataclass(frozen=True)
class PagedQuery:
    """The indexer's arguments as DeepGEMM's paged functions want them, a sequence a token.

    Attributes:
        q: [T, 1, H, D].
        keys: [pages, page_size, 1, D].
        weights: [T, H] float32, scaled.
        lengths: [T] int32.
        table: [T, P] int32, a valid page everywhere.
        width: columns to compute, whole pages.
    """

    q: Tensor
    keys: Tensor
    weights: Tensor
    lengths: Tensor
    table: Tensor
    width: int


def index_obstacle(
    backend: Backend, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
) -> str | None:
    """Why a paged indexer on bfloat16 cannot score this."""
    if q.dtype is not torch.bfloat16 or keys.dtype is not torch.bfloat16:
        return f"{q.dtype} queries and {keys.dtype} keys; it takes bfloat16"
    if q.shape[-1] != INDEX_WIDTH:
        return f"index keys of {q.shape[-1]} values; it takes {INDEX_WIDTH}"
    if keys.page_size != INDEX_PAGE:
        return f"pages of {keys.page_size} rows; it takes {INDEX_PAGE}"
    return None


def indexer(compute: Callable[[Function, Any, PagedQuery], Tensor]) -> Call:
    """`index_scores` by a vendor's function that scores pages: [T, at least max_length]."""

    @functools.wraps(compute)
    def call(
        function: Function,
        backend: Backend,
        q: Tensor,
        w: Tensor,
        keys: Cache,
        context: PagedContext,
        scale: float,
    ) -> Tensor:
        if not q.shape[0]:
            return w.new_empty(0, context.max_length)
        scores = compute(function, backend, _paged_query(q, w, keys, context, scale))
        return _visible(scores, context)

    return call


def _paged_query(
    q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
) -> PagedQuery:
    pages = -(-context.max_length // keys.page_size)
    table = context.page_table[context.sequence.long(), :pages].clamp(min=0)
    table = torch.nn.functional.pad(table, (0, pages - table.shape[1]))
    return PagedQuery(
        q.contiguous().unsqueeze(1),
        keys.tensor.view(keys.pages, keys.page_size, 1, keys.width),
        (w * scale).contiguous(),
        context.lengths.contiguous(),
        table,
        pages * keys.page_size,
    )


def _visible(scores: Tensor, context: PagedContext) -> Tensor:
    """[T, max_length]: -Inf behind each length, no negative zero."""
    place = torch.arange(context.max_length, dtype=torch.int32, device=scores.device)
    seen = place < context.lengths.unsqueeze(1)
    return torch.where(seen, scores[:, : context.max_length].float() + 0.0, -torch.inf)


def ascending(indices: Tensor) -> Tensor:
    """Positions [T, k] in ascending order, -1 last."""
    ordered = torch.where(indices < 0, _LAST, indices).sort(dim=1).values
    return torch.where(ordered == _LAST, -1, ordered).int()


@dataclass(frozen=True)
class Rows:
    """What a top-k is asked for, in the form of functions that take rows from starts to ends.

    Attributes:
        scores: [T, S] float32.
        starts: [T] int32, zeros.
        ends: [T] int32, the rows' lengths.
        chosen: [T, k] int32, of -1; it is filled in any order.
    """

    scores: Tensor
    starts: Tensor
    ends: Tensor
    chosen: Tensor


def chooser(fill: Callable[[Function, Rows], object]) -> Call:
    """`topk` by a vendor's function that fills a buffer; what it has found is sorted."""

    @functools.wraps(fill)
    def call(
        function: Function, backend: Backend, scores: Tensor, lengths: Tensor, k: int
    ) -> Tensor:
        chosen = torch.full((scores.shape[0], k), -1, dtype=torch.int32, device=scores.device)
        if chosen.numel() and scores.shape[1]:
            starts = torch.zeros_like(lengths)
            fill(function, Rows(scores.contiguous(), starts, lengths.contiguous(), chosen))
        return ascending(chosen)

    return call


def topk_obstacle(backend: Backend, scores: Tensor, lengths: Tensor, k: int) -> str | None:
    """None: scores are float32, lengths int32, and any k will do."""
    return None


# --- router and experts ---


@dataclass(frozen=True)
class Routing:
    """What a router chooses among.

    Attributes:
        logits: [T, E] float32, one after the other in memory.
        bias: [E] float32.
        k: experts a token.
        n_group: groups of experts.
        topk_group: groups that are left.
    """

    logits: Tensor
    bias: Tensor
    k: int
    n_group: int
    topk_group: int

    @property
    def experts(self) -> int:
        """How many there are."""
        return self.logits.shape[1]


def router(choose: Callable[[Function, Routing], Tensor]) -> Call:
    """`moe_route` by a vendor's function that chooses experts [T, k] in any order.

    The weights are computed here: sigmoids of the logits, added in slot order.
    """

    @functools.wraps(choose)
    def call(
        function: Function,
        backend: Backend,
        logits: Tensor,
        bias: Weight,
        k: int,
        n_group: int,
        topk_group: int,
        normalize: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        if not logits.shape[0]:  # which not every library takes
            return logits.new_empty(0, k, dtype=torch.int32), logits.new_empty(0, k)
        routing = Routing(logits.contiguous(), bias.tensor, k, n_group, topk_group)
        ids = choose(function, routing).sort(dim=1).values
        weights = torch.sigmoid(logits.gather(1, ids.long()))
        return ids.int(), weighed(weights, normalize, scale)

    return call


def weighed(weights: Tensor, normalize: bool, scale: float) -> Tensor:
    """Weights [T, k] of a token's experts, divided by their sum, which is taken in slot order."""
    if normalize:
        total = weights[:, :1]
        for slot in range(1, weights.shape[1]):  # the order of a sum over k may follow the shape
            total = total + weights[:, slot : slot + 1]
        weights = weights / (total + TINY_TOTAL)
    return weights * scale


def router_obstacle(check: Callable[[Routing], str | None]) -> Call:
    """Why a router cannot choose, by a check of what it would choose among."""

    @functools.wraps(check)
    def obstacle(
        backend: Backend,
        logits: Tensor,
        bias: Weight,
        k: int,
        n_group: int,
        topk_group: int,
        normalize: bool,
        scale: float,
    ) -> str | None:
        return check(Routing(logits, bias.tensor, k, n_group, topk_group))

    return obstacle


def uneven(routing: Routing) -> str | None:
    """Why experts cannot be chosen by groups."""
    if routing.experts % routing.n_group == 0:
        return None
    return f"{routing.experts} experts in {routing.n_group} groups; it takes equal groups"


groups_obstacle = router_obstacle(uneven)


def grouped_obstacle(backend: Backend, x: Tensor, w: Weight, offsets: Tensor) -> str | None:
    """Why a grouped product on bfloat16 cannot take these."""
    if x.dtype is torch.bfloat16 and w.dtype is torch.bfloat16:
        return None
    return f"{x.dtype} rows and {w.dtype} weights; it takes bfloat16"


def swiglu_obstacle(backend: Backend, gate_up: Tensor) -> str | None:
    """Why an activation on bfloat16 cannot take this."""
    if gate_up.dtype is torch.bfloat16:
        return None
    return f"{gate_up.dtype} values; it takes bfloat16"
