"""Routing, permutation and combination of experts."""

import itertools

import torch
from torch import Tensor

from glm5_hal.backends.cpu.elementwise import sigmoid
from glm5_hal.backends.cpu.tiles import matmul


def route(
    logits: Tensor,
    bias: Tensor,
    k: int,
    n_group: int,
    topk_group: int,
    normalize: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """As the contract's moe_route: ids and weights [T, k]."""
    # in float64: among experts that are nearly equal the last bit decides
    scores = sigmoid(logits.double()).float()
    choice = scores + bias
    if n_group > 1:
        choice = _limit_groups(choice, n_group, topk_group)
    ids = _best(choice, k)
    weights = scores.gather(1, ids)
    if normalize:
        total = torch.zeros(logits.shape[0])
        for slot in range(k):
            total = total + weights[:, slot]
        weights = weights / (total + 1e-20).unsqueeze(1)
    return ids.int(), weights * scale


def _best(keys: Tensor, k: int) -> Tensor:
    """Columns of the k largest of each row, ties to the lowest, ascending: [T, k] int64."""
    ranked = torch.sort(keys, dim=-1, descending=True, stable=True).indices
    return ranked[:, :k].sort(dim=-1).values


def _limit_groups(choice: Tensor, n_group: int, topk_group: int) -> Tensor:
    """-Inf for the experts of all but the `topk_group` best groups."""
    groups: Tensor = choice.unflatten(1, (n_group, -1))
    top = torch.sort(groups, dim=-1, descending=True).values
    best = _best(top[..., 0] + top[..., 1], topk_group)
    kept = torch.zeros(groups.shape[:2], dtype=torch.bool)
    kept.scatter_(1, best, torch.ones_like(best, dtype=torch.bool))
    return groups.masked_fill(~kept.unsqueeze(-1), -torch.inf).flatten(1)


def dispatch(x: Tensor, ids: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """As the contract's moe_dispatch: rows, offsets, slots."""
    flat = ids.flatten()
    slots = torch.sort(flat, stable=True).indices
    offsets = torch.zeros(experts + 1, dtype=torch.int32)
    offsets[1:] = torch.bincount(flat, minlength=experts).cumsum(0)
    return x[slots // ids.shape[1]], offsets, slots.int()


def places(slots: Tensor) -> Tensor:
    """The row that each slot has: the inverse of `slots` [P] int32."""
    place = torch.zeros_like(slots)
    place[slots.long()] = torch.arange(slots.shape[0], dtype=torch.int32)
    return place


def combine(rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None) -> Tensor:
    """As the contract's moe_combine: [T, D]."""
    place = places(slots).unflatten(0, weights.shape)  # row of each (token, slot)
    total = torch.zeros(weights.shape[0], rows.shape[1])
    for slot in range(weights.shape[1]):
        # multiply, then add: two roundings, never one
        total = total + rows[place[:, slot].long()].float() * weights[:, slot : slot + 1]
    if shared is not None:
        total = total + shared.float()
    return total.to(rows.dtype)


def grouped_linear(x: Tensor, w: Tensor, offsets: Tensor) -> Tensor:
    """As the contract's grouped_linear: [P, N]."""
    out = x.new_empty(x.shape[0], w.shape[1])
    bounds = offsets.tolist()
    for expert, (start, stop) in enumerate(itertools.pairwise(bounds)):
        if stop > start:
            out[start:stop] = matmul(x[start:stop], w[expert], x.dtype)
    return out
