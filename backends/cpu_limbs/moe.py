"""Routing tokens to experts and summing what comes back."""

import numpy as np
import torch
from torch import Tensor

from glm5_hal import Weight
from glm5_hal.backends.cpu_limbs import floats, integers
from glm5_hal.backends.cpu_limbs.arrays import (
    Float,
    Int,
    floats_of,
    tensor_of,
    vector_of,
    whole_tensor,
)
from glm5_hal.backends.cpu_limbs.floats import read, write

_TINY_TOTAL = np.float32(1e-20)
_BELOW_ALL = np.float32(-np.inf)


def route(
    logits: Tensor,
    bias: Weight,
    k: int,
    groups: tuple[int, int],
    normalize: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """(ids, weights), each [T, k]; `groups` is how many there are and how many may be used."""
    scores = read(floats.sigmoid(floats_of(logits)))
    choice = scores + read(vector_of(bias))
    if groups[0] > 1:
        choice = _in_groups(choice, *groups)
    ids = _best(choice, k)
    weights = np.take_along_axis(scores, ids, axis=1)
    if normalize:
        total = np.zeros_like(weights[:, 0])
        for slot in range(k):
            total = total + weights[:, slot]
        weights = floats.divide(weights, (total + _TINY_TOTAL)[:, None])
    result = tensor_of(write(weights * np.float32(scale)), torch.float32)
    return whole_tensor(ids), result


def dispatch(x: Tensor, ids: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """(rows [T k, D], offsets [experts + 1], slots [T k]): a stable counting sort."""
    flat = ids.flatten().numpy()
    slots = whole_tensor(np.argsort(flat, kind="stable").astype(np.int32))
    offsets = np.zeros(experts + 1, np.int32)
    offsets[1:] = np.cumsum(np.bincount(flat, minlength=experts), dtype=np.int32)
    return x[slots.long() // ids.shape[1]], whole_tensor(offsets), slots


def combine(rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None) -> Tensor:
    """Token rows [T, D] from expert rows [T k, D], added in slot order."""
    tokens, k = weights.shape
    by_slot = np.empty_like(floats_of(rows))
    by_slot[slots.numpy()] = read(floats_of(rows))
    per_slot = by_slot.reshape(tokens, k, rows.shape[1])
    factors = read(floats_of(weights))
    total = np.zeros((tokens, rows.shape[1]), np.float32)
    for slot in range(k):
        total = total + per_slot[:, slot] * factors[:, slot : slot + 1]
    if shared is not None:
        total = total + read(floats_of(shared))
    return tensor_of(write(total), rows.dtype)


def _best(values: Float, k: int) -> Int:
    """Places of the k largest in rows [..., E], ties to the lowest, ascending: [..., k]."""
    ranked = np.argsort(~integers.order_keys(values), axis=-1, kind="stable")
    return np.sort(ranked[..., :k].astype(np.int32), axis=-1)


def _in_groups(choice: Float, groups: int, allowed: int) -> Float:
    """-Inf for the experts of all but the best groups."""
    tokens, experts = choice.shape
    grouped = choice.reshape(tokens, groups, experts // groups)
    best = np.take_along_axis(grouped, _best(grouped, 2), axis=-1)
    score = best[..., 0] + best[..., 1]  # the same in either order
    kept = np.zeros(score.shape, np.bool_)
    np.put_along_axis(kept, _best(score, allowed), True, axis=1)
    return np.where(kept[:, :, None], grouped, _BELOW_ALL).reshape(choice.shape)
