"""Index scores and top-k."""

import numpy as np
import torch
from torch import Tensor

from glm5_hal import Cache, PagedContext
from glm5_hal.backends.cpu_limbs import fixing, integers
from glm5_hal.backends.cpu_limbs.arrays import Float, Int, floats_of, tensor_of
from glm5_hal.backends.cpu_limbs.fixing import ACTIVATION_DIGITS
from glm5_hal.backends.cpu_limbs.floats import read, write
from glm5_hal.backends.cpu_limbs.linear import weight_digits


def index_scores(q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float) -> Tensor:
    """Scores [T, max_length] float32: exact products, then a chain of additions in head order."""
    out = torch.full((q.shape[0], context.max_length), -torch.inf)
    weights = read(read(floats_of(w)) * np.float32(scale))
    for token in range(q.shape[0]):
        rows = keys.tensor[context.slots(token, keys.page_size)]
        scores = _token_scores(q[token], weights[token], rows)
        out[token, : rows.shape[0]] = tensor_of(write(scores), torch.float32)
    return out


def _token_scores(q: Tensor, weights: Float, rows: Tensor) -> Float:
    """Scores [S] of the keys [S, D] against one query [H, D]."""
    query = fixing.fix(floats_of(q), ACTIVATION_DIGITS)
    key = fixing.fix(floats_of(rows), weight_digits(rows.dtype))
    products = fixing.product(query, key)
    dots = read(np.where(products < 0, np.float32(0), products))  # NaN stays
    total = np.zeros(len(rows), np.float32)
    for head in range(len(dots)):
        total = total + dots[head] * weights[head]
    return total


def topk(scores: Tensor, lengths: Tensor, k: int) -> Tensor:
    """Indices [T, k] of the best of each row up to its length, ascending, padded with -1."""
    keys = integers.order_keys(floats_of(scores))
    out = np.full((scores.shape[0], k), -1, np.int32)
    for row, length in enumerate(lengths.tolist()):
        best = _best(keys[row, :length], k)
        out[row, : len(best)] = best
    return torch.from_numpy(out)


def _best(keys: Int, k: int) -> Int:
    """Ascending positions of the k largest: all above the k-th largest, then the first at it."""
    if not 0 < k < len(keys):
        return np.arange(min(k, len(keys)), dtype=np.int32)
    edge = np.partition(keys, len(keys) - k)[len(keys) - k]
    above, at = keys > edge, keys == edge
    at &= np.cumsum(at, dtype=np.int32) <= k - int(above.sum(dtype=np.int32))
    return np.flatnonzero(above | at).astype(np.int32)
