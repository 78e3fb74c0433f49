"""Fused functions of sparse attention: the indexer's choice, attention on what it chose.

Every token is a sequence of its own to them, of one query and of the rows that it sees. So a call
says of each token what the contract says, whatever the order of the sequences, and a prefill and a
decode make calls of one form.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from glm5_hal import Backend, Cache, PagedContext
from glm5_hal.backends.ascend.halved_caches import Halves
from glm5_hal.backends.ascend.records import Facts, name_of
from glm5_hal.backends.torch_triton.fused_calls import ascending

_ALL, _ABSORBED = 0, 2
"""Sparse mode: nothing is masked beyond the lengths. Attention mode: keys are also the values."""


def dsa_select_facts(
    q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float, k: int
) -> Facts:
    _, heads, width = q.shape
    return {
        "activations": name_of(q.dtype),
        "heads": heads,
        "width": width,
        "page_size": keys.page_size,
        "k": k,
    }


def dsa_select(
    function: Callable[..., Any],
    backend: Backend,
    q: Tensor,
    w: Tensor,
    keys: Cache,
    context: PagedContext,
    scale: float,
    k: int,
) -> Tensor:
    """In which order it returns its choice has no source: it is sorted."""
    chosen, _ = function(
        q.contiguous(),
        _paged(keys.tensor, keys.page_size),
        w * scale,
        actual_seq_lengths_key=context.lengths,
        sparse_count=k,
        layout_key="PA_BSND",
        **_one_by_one(context),
    )
    return ascending(chosen.squeeze(1))


def latent_attention_facts(
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Cache,
    context: PagedContext,
    scale: float,
    indices: Tensor | None = None,
) -> Facts:
    _, heads, latent = q_latent.shape
    return {
        "activations": name_of(q_latent.dtype),
        "heads": heads,
        "latent": latent,
        "rotated": q_rope.shape[-1],
        "page_size": cache.page_size,
    }


def latent_attention(
    function: Callable[..., Any],
    backend: Backend,
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Cache,
    context: PagedContext,
    scale: float,
    indices: Tensor | None = None,
) -> Tensor:
    """Without indices every visible row is named, so that the call is the same."""
    assert isinstance(cache.data, Halves)  # as it is for rows of this width
    named = _packed(context, indices)
    key, rotated = (_paged(part.tensor, cache.page_size) for part in cache.data)
    result: Tensor
    result, _, _ = function(
        q_latent.contiguous(),
        key,
        key,
        named.unsqueeze(1),
        scale,
        actual_seq_lengths_kv=torch.maximum(context.lengths, named.amax(-1) + 1),
        query_rope=q_rope.contiguous(),
        key_rope=rotated,
        layout_kv="PA_BSND",
        attention_mode=_ABSORBED,
        **_one_by_one(context),
    )
    return result


def _paged(rows: Tensor, page_size: int) -> Tensor:
    """Rows [slots, D] as [pages, page_size, 1, D]."""
    return rows.view(-1, page_size, 1, rows.shape[-1])


def _one_by_one(context: PagedContext) -> dict[str, Any]:
    """What both functions are told of the sequences: one a token, of one query."""
    tokens = context.sequence.numel()
    device = context.sequence.device
    return {
        "block_table": context.page_table[context.sequence.long()],
        "actual_seq_lengths_query": torch.arange(1, tokens + 1, dtype=torch.int32, device=device),
        "layout_query": "TND",
        "sparse_mode": _ALL,
    }


def _packed(context: PagedContext, indices: Tensor | None) -> Tensor:
    """Rows that each token sees, [T, k], with -1 behind the last; every one without indices."""
    if indices is None:
        rows = torch.arange(context.max_length, dtype=torch.int32, device=context.lengths.device)
        seen = rows < context.lengths.unsqueeze(1)
        return torch.where(seen, rows, -1)
    ended = (indices < 0).int().cumsum(-1) > 0
    return indices.masked_fill(ended, -1)
