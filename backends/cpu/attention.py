"""Attention over paged latent rows, blocked over queries and keys.

Each query walks its own list of visible rows in tiles of `KEYS` from the first row on, with a
running maximum. The tiles, and so the bits, depend on the list alone: a list of all rows gives
what no list gives, and prefill, chunks and decode agree. Memory is that of one block.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from glm5_hal.backends.cpu.tiles import each_matmul
from glm5_hal.handles import Cache, PagedContext

QUERIES = 16
"""Queries gathered for at a time."""
KEYS = 128
"""Rows a tile."""


@dataclass
class _Running:
    """Softmax over tiles: running maximum, sum and weighted values of each query and head."""

    maximum: Tensor  # [Q, H, 1]
    total: Tensor  # [Q, H, 1]
    values: Tensor  # [Q, H, C]

    @classmethod
    def start(cls, queries: int, heads: int, width: int) -> "_Running":
        return cls(
            torch.full((queries, heads, 1), -torch.inf),
            torch.zeros(queries, heads, 1),
            torch.zeros(queries, heads, width),
        )

    def add(self, scores: Tensor, values: Tensor) -> None:
        """Take in scores [Q, H, KEYS] (-Inf where invisible) and values [Q, KEYS, C].

        A tile that a query does not see leaves its state as it is, to the bit: the maximum
        stays, the factor is exp(0) = 1, and zeros are added.
        """
        maximum = torch.maximum(self.maximum, scores.amax(-1, keepdim=True))
        weights = torch.exp(scores - maximum)
        keep = torch.exp(self.maximum - maximum)
        self.total = self.total * keep + weights.sum(-1, keepdim=True)
        self.values = self.values * keep + each_matmul(weights, values)
        self.maximum = maximum

    def result(self) -> Tensor:
        """[Q, H, C]."""
        return self.values / self.total


@dataclass(frozen=True)
class _Block:
    """The visible rows of up to `QUERIES` queries.

    Attributes:
        count: visible rows of each query, [Q].
        columns: their positions, [Q, n], or None where they are 0, 1, 2, ...
        pages: page-table row of each query, [Q, P].
    """

    count: Tensor
    columns: Tensor | None
    pages: Tensor

    @classmethod
    def of(cls, context: PagedContext, indices: Tensor | None, start: int) -> "_Block":
        part = slice(start, start + QUERIES)
        pages = context.page_table[context.sequence[part].long()].long()
        if indices is None:
            return cls(context.lengths[part].long(), None, pages)
        chosen = indices[part].long()
        # entries after the first -1 are padding, whatever they hold
        count = (chosen >= 0).long().cumprod(-1).sum(-1)
        return cls(count, chosen, pages)

    def tile(self, cache: Cache, first: int) -> tuple[Tensor, Tensor]:
        """(rows [Q, KEYS, W] float32 with zeros where invisible, visible [Q, KEYS])."""
        place = torch.arange(first, first + KEYS)
        visible = place < self.count.unsqueeze(1)
        if self.columns is None:
            columns = place.expand(visible.shape)
        else:
            columns = self.columns[:, first : first + KEYS]
            columns = torch.nn.functional.pad(columns, (0, KEYS - columns.shape[1]))
        columns = torch.where(visible, columns, 0)
        page = self.pages.gather(1, columns // cache.page_size)
        slots = page * cache.page_size + columns % cache.page_size
        rows = cache.tensor[slots.flatten()].float().unflatten(0, visible.shape)
        if not visible.all():
            # an invisible row may hold anything, and 0 * NaN is NaN
            rows = torch.where(visible.unsqueeze(-1), rows, 0.0)
        return rows, visible


def latent_attention(
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Cache,
    context: PagedContext,
    scale: float,
    indices: Tensor | None,
) -> Tensor:
    """As the contract's latent_attention: [T, H, C]."""
    tokens, heads, latent = q_latent.shape
    out = torch.empty_like(q_latent, memory_format=torch.contiguous_format)
    query = torch.cat((q_latent, q_rope), dim=-1).float()  # [T, H, W]
    for start in range(0, tokens, QUERIES):
        block = _Block.of(context, indices, start)
        part = query[start : start + QUERIES]
        running = _Running.start(part.shape[0], heads, latent)
        for first in range(0, int(block.count.max()), KEYS):
            rows, visible = block.tile(cache, first)
            scores = each_matmul(part, rows.mT) * scale
            scores = scores.masked_fill(~visible.unsqueeze(1), -torch.inf)
            running.add(scores, rows[..., :latent])
        out[start : start + QUERIES] = running.result().to(out.dtype)
    return out


def expanded_attention(
    q_nope: Tensor,
    q_rope: Tensor,
    cache: Cache,
    context: PagedContext,
    w_uk: Tensor,
    w_uv: Tensor,
    scale: float,
    indices: Tensor | None,
) -> Tensor:
    """As the contract's mla_expanded: [T, H, V]. Keys and values are expanded tile by tile."""
    heads, latent, _ = w_uk.shape
    out = q_nope.new_empty(*q_nope.shape[:2], w_uv.shape[1])
    query = torch.cat((q_nope, q_rope), dim=-1).float()  # [T, H, N + R]
    up_key, up_value = w_uk.float(), w_uv.float().mT  # [H, C, N], [H, C, V]
    for token in range(query.shape[0]):
        block = _Block.of(_one(context, token), _row(indices, token), 0)
        part = query[token].unsqueeze(1)  # [H, 1, N + R]
        running = _Running.start(heads, 1, w_uv.shape[1])
        for first in range(0, int(block.count.max()), KEYS):
            rows, visible = block.tile(cache, first)
            content = rows[:, :, :latent].expand(heads, -1, -1)
            position = rows[:, :, latent:].expand(heads, -1, -1)
            keys = torch.cat((torch.bmm(content, up_key), position), dim=-1)  # [H, KEYS, N + R]
            scores = torch.bmm(part, keys.mT) * scale
            scores = scores.masked_fill(~visible.unsqueeze(1), -torch.inf)
            running.add(scores, torch.bmm(content, up_value))
        out[token] = running.result().squeeze(1).to(out.dtype)
    return out


def _one(context: PagedContext, token: int) -> PagedContext:
    part = slice(token, token + 1)
    return PagedContext(
        context.page_table, context.sequence[part], context.lengths[part], context.max_length
    )


def _row(indices: Tensor | None, token: int) -> Tensor | None:
    return None if indices is None else indices[token : token + 1]
