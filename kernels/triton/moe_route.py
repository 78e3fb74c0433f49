"""Expert routing: one token a program, its experts in rows of groups."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm5_hal.kernels.triton.floats import (
    INFINITY,
    SIGN,
    bits_of,
    float_of,
    narrow,
    order_key,
    picked,
    read,
    sigmoid,
    write,
)
from glm5_hal.kernels.triton.target import Target, padded
from glm5_hal.ops.moe_route import TINY_TOTAL as _TINY_TOTAL

TINY_TOTAL = tl.constexpr(_TINY_TOTAL)


@triton.jit
def whole_max(x):
    """Largest element of a matrix."""
    return tl.max(tl.max(x, 1), 0)


@triton.jit
def whole_min(x):
    """Least element of a matrix."""
    return tl.min(tl.min(x, 1), 0)


@triton.jit
def whole_picked(x, chosen):
    """The only element of a matrix that is chosen; +0 where none is."""
    return float_of(tl.sum(tl.sum(tl.where(chosen, bits_of(x), 0), 1), 0))


@triton.jit
def leading(key, member, members: tl.constexpr):
    """Where the first of the largest keys of each group stands."""
    best = tl.max(key, 1)
    at = tl.min(tl.where(key == best[:, None], member[None, :], members), 1)
    return member[None, :] == at[:, None]


@triton.jit
def route_kernel(
    first,
    logits,
    bias,
    ids,
    weights,
    experts,
    k,
    n_group,
    topk_group,
    scale,
    normalize: tl.constexpr,
    exact: tl.constexpr,
    groups: tl.constexpr,
    members: tl.constexpr,
    slots: tl.constexpr,
):
    """ids and weights [tokens, k] of logits [tokens, experts]."""
    token = (tl.program_id(0) + first).to(tl.int64)
    size = experts // n_group
    group = tl.arange(0, groups)
    member = tl.arange(0, members)
    expert = group[:, None] * size + member[None, :]
    mask = (group < n_group)[:, None] & (member < size)[None, :]
    logit = tl.load(logits + token * experts + expert, mask=mask, other=0.0)
    added = tl.load(bias + expert, mask=mask, other=0.0)
    if exact:
        score = read(sigmoid(logit))
        added = read(added)
    else:
        score = sigmoid(logit)
    choice = score + added
    if groups > 1:
        member_key = tl.where(mask, order_key(choice), SIGN)
        leader = leading(member_key, member, members)
        follower = leading(tl.where(leader, SIGN, member_key), member, members)
        sums = picked(choice, leader, 1) + picked(choice, follower, 1)
        rank = tl.where(group < n_group, order_key(sums), SIGN)
        kept = group < 0
        for _ in range(topk_group):
            first_group = tl.min(tl.where(rank == tl.max(rank, 0), group, groups), 0)
            kept = kept | (group == first_group)
            rank = tl.where(group == first_group, SIGN, rank)
        choice = tl.where(kept[:, None], choice, -INFINITY)
    key = tl.where(mask, order_key(choice), SIGN)
    chosen = expert < 0
    for _ in range(k):
        best = whole_max(key)
        at = whole_min(tl.where((key == best) & mask, expert, experts))
        chosen = chosen | ((expert == at) & mask)
        key = tl.where(expert == at, SIGN, key)
    slot = tl.arange(0, slots)
    found = tl.zeros([slots], tl.int32)
    share = tl.zeros([slots], tl.float32)
    total = tl.zeros([1], tl.float32)
    for place in range(k):
        at = whole_min(tl.where(chosen, expert, experts))
        mine = (expert == at) & mask
        one = whole_picked(score, mine)
        chosen = chosen & (expert != at)
        found = tl.where(slot == place, at, found)
        share = tl.where(slot == place, one, share)
        total = total + one
    if normalize:
        share = tl.math.div_rn(share, total + TINY_TOTAL + tl.zeros_like(share))
    share = share * scale
    share = write(share, tl.float32) if exact else narrow(share, tl.float32)
    tl.store(ids + token * k + slot, found, mask=slot < k)
    tl.store(weights + token * k + slot, share, mask=slot < k)


def _run(
    exactly: bool,
    logits: Tensor,
    bias: Tensor,
    k: int,
    n_group: int,
    topk_group: int,
    normalize: bool,
    scale: float,
    target: Target,
) -> tuple[Tensor, Tensor]:
    tokens, experts = logits.shape
    ids = torch.empty(tokens, k, dtype=torch.int32, device=logits.device)
    weights = torch.empty(tokens, k, dtype=torch.float32, device=logits.device)
    target.launch(
        route_kernel,
        tokens,
        *(logits.contiguous(), bias, ids, weights, experts, k, n_group, topk_group, scale),
        tile="route",
        normalize=normalize,
        exact=exactly,
        groups=padded(n_group, 1),
        members=padded(experts // n_group),
        slots=padded(k, 1),
    )
    return ids, weights


def exact(
    logits: Tensor,
    bias: Tensor,
    k: int,
    n_group: int,
    topk_group: int,
    normalize: bool,
    scale: float,
    target: Target,
) -> tuple[Tensor, Tensor]:
    """(ids, weights), each [T, k], of logits [T, E] and bias [E]."""
    return _run(True, logits, bias, k, n_group, topk_group, normalize, scale, target)


def fast(
    logits: Tensor,
    bias: Tensor,
    k: int,
    n_group: int,
    topk_group: int,
    normalize: bool,
    scale: float,
    target: Target,
) -> tuple[Tensor, Tensor]:
    """(ids, weights), each [T, k], of logits [T, E] and bias [E]."""
    return _run(False, logits, bias, k, n_group, topk_group, normalize, scale, target)
