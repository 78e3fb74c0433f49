"""Top-k in a total order, by threshold: a row's k-th best key is found bit by bit from above.

Two bits a pass: three thresholds are counted against, and counts of integers have no order. One
more pass places, in ascending order, what lies above the threshold and the first that equal it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm5_hal.kernels.triton.floats import SIGN, order_key
from glm5_hal.kernels.triton.target import Target, padded


@triton.jit
def row_keys(scores, begin, length, block: tl.constexpr):
    """(columns, which of them are the row's, keys) of one block of a row."""
    column = begin + tl.arange(0, block)
    mask = column < length
    key = order_key(tl.load(scores + column, mask=mask, other=0.0))
    return column, mask, tl.where(mask, key, SIGN)


@triton.jit
def kth_key(scores, length, wanted, block: tl.constexpr):
    """The wanted-th largest key of a row, wanted >= 1."""
    prefix = tl.zeros([1], tl.int32)
    for step in range(16):
        shift = 30 - 2 * step
        one = (tl.zeros([1], tl.int32) + 1) << shift
        t1 = (prefix | one) ^ SIGN
        t2 = (prefix | (one << 1)) ^ SIGN
        t3 = (prefix | one | (one << 1)) ^ SIGN
        n1 = tl.zeros([block], tl.int32)
        n2 = tl.zeros([block], tl.int32)
        n3 = tl.zeros([block], tl.int32)
        for begin in range(0, length, block):
            _, _, key = row_keys(scores, begin, length, block)
            n1 += (key >= t1).to(tl.int32)
            n2 += (key >= t2).to(tl.int32)
            n3 += (key >= t3).to(tl.int32)
        enough = (tl.sum(n1, 0) >= wanted).to(tl.int32)
        enough += (tl.sum(n2, 0) >= wanted).to(tl.int32)
        enough += (tl.sum(n3, 0) >= wanted).to(tl.int32)
        prefix = prefix | (enough << shift)
    return prefix ^ SIGN


@triton.jit
def spare_equals(scores, length, wanted, threshold, block: tl.constexpr):
    """How many of a row's keys that equal the threshold are among the wanted ones."""
    above = tl.zeros([block], tl.int32)
    for begin in range(0, length, block):
        _, mask, key = row_keys(scores, begin, length, block)
        above += ((key > threshold) & mask).to(tl.int32)
    return wanted - tl.sum(above, 0)


@triton.jit
def topk_kernel(first, scores, lengths, out, width, k, fill: tl.constexpr, block: tl.constexpr):
    """Indices out [rows, k] of scores [rows, width]; one row a program."""
    row = (tl.program_id(0) + first).to(tl.int64)
    length = tl.load(lengths + row)
    wanted = tl.minimum(length, k)
    here = scores + row * width
    goal = out + row * k
    for begin in range(0, k, fill):
        place = begin + tl.arange(0, fill)
        tl.store(goal + place, tl.full([fill], -1, tl.int32), mask=(place >= wanted) & (place < k))
    threshold = kth_key(here, length, wanted, block)
    spare = spare_equals(here, length, wanted, threshold, block)
    equals = tl.zeros([1], tl.int32)
    taken = tl.zeros([1], tl.int32)
    for begin in range(0, length, block):
        column, mask, key = row_keys(here, begin, length, block)
        equal = ((key == threshold) & mask).to(tl.int32)
        rank = equals + tl.cumsum(equal, 0)
        take = ((key > threshold) & mask) | ((equal > 0) & (rank <= spare))
        chosen = take.to(tl.int32)
        place = taken + tl.cumsum(chosen, 0) - 1
        tl.store(goal + place, column, mask=take)
        equals += tl.sum(equal, 0)
        taken += tl.sum(chosen, 0)


def run(scores: Tensor, lengths: Tensor, k: int, target: Target) -> Tensor:
    """Indices [T, k] of scores [T, S], ascending, padded with -1; the same in every profile."""
    scores = scores.contiguous()
    rows, width = scores.shape
    out = torch.empty(rows, k, dtype=torch.int32, device=scores.device)
    fill = min(padded(k), 1024)
    sizes = {"fill": fill, "block": target.tile("topk").fitted("block", width)}
    target.launch(topk_kernel, rows, scores, lengths, out, width, k, tile="topk", **sizes)
    return out
