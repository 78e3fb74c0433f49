"""Which clause of an op's requirements an answer breaks, read from the two answers alone."""

from collections.abc import Callable

import torch
from torch import Tensor

from glm5_hal.conformance.bisect.observed import Results
from glm5_hal.conformance.call import Call
from glm5_hal.exact import WRITE
from glm5_hal.ops.topk import order_key

Broken = tuple[str, str]
"""(requirement id, what was found)."""


def clause(call: Call, expected: Results, found: Results) -> Broken | None:
    """The clause that is broken; None where the answers do not tell."""
    rule = _RULES.get(call.op)
    return (rule(call, expected, found) if rule else None) or _special_values(expected, found)


def _special_values(expected: Results, found: Results) -> Broken | None:
    """NaN and zeros whose bits the exact profile defines, where nothing else differs."""
    for want, got in zip(expected, found, strict=True):
        if not want.is_floating_point() or want.shape != got.shape or want.dtype != got.dtype:
            continue
        differ = (want != got) & ~(want.isnan() & got.isnan())
        if bool(differ.any()):
            return None
        small = (want == 0) & ((got != 0) & (got.abs() < WRITE) | got.signbit())
        if bool(small.any()):
            return "EXACT-WRITE-1", "a zero with a sign, or a small result that was not flushed"
        if bool(want.isnan().any()):
            return "EXACT-NAN-1", "NaN of another bit pattern"
    return None


def _topk(call: Call, expected: Results, found: Results) -> Broken | None:
    return selection(call.arguments["scores"], call.arguments["lengths"], expected, found)


def selection(scores: Tensor, lengths: Tensor, expected: Results, found: Results) -> Broken:
    """The clause that the first differing row breaks."""
    want, got = expected[0], found[0]
    row = int((want != got).any(-1).nonzero()[0])
    length = int(lengths[row])
    wanted, chosen = want[row], got[row]
    valid = chosen[chosen >= 0]
    if bool((valid >= length).any()):
        return "TOPK-5", f"it chooses a column behind the row's length of {length}"
    count = int((wanted >= 0).sum())
    if valid.numel() != count or bool((chosen[:count] < 0).any()):
        return "TOPK-3", f"a row has {valid.numel()} indices in front of -1; expected {count}"
    if bool((valid.diff() <= 0).any()) and torch.equal(valid.sort().values, wanted[:count]):
        return "TOPK-2", "it chooses the right set in another order"
    keys = order_key(scores[row])
    mine, theirs = (keys[part.long()].sort().values for part in (valid, wanted[:count]))
    if torch.equal(mine, theirs):
        return "TOPK-1", "among equal scores it does not take those of the lowest index"
    if bool(scores[row, :length].isnan().any()):
        return "TOPK-4", "the row holds NaN, which is ordered another way"
    return "TOPK-1", "it does not choose the best scores"


def _cache_write(call: Call, expected: Results, found: Results) -> Broken:
    own = torch.zeros(expected[0].shape[0], dtype=torch.bool)
    own[call.arguments["slots"].long()] = True
    differ = (expected[0] != found[0]).any(-1) & ~(expected[0].isnan() & found[0].isnan()).all(-1)
    if bool((differ & ~own).any()):
        slot = int((differ & ~own).nonzero()[0])
        return "CACHE-WRITE-2", f"slot {slot} changed, which the call was not given"
    return "CACHE-WRITE-1", "a slot does not hold its row"


def _dispatch(call: Call, expected: Results, found: Results) -> Broken:
    if not torch.equal(expected[1], found[1]):
        return "DISPATCH-2", "experts own other rows"
    if not torch.equal(expected[2], found[2]):
        return "DISPATCH-1", "slots stand in another order"
    return "DISPATCH-3", "a row is not that of its token"


def _route(call: Call, expected: Results, found: Results) -> Broken:
    ids, chosen = expected[0], found[0]
    if torch.equal(ids, chosen):
        return "ROUTE-EXACT-2", "the experts are right, their weights are not"
    if torch.equal(ids, chosen.sort(-1).values):
        return "ROUTE-4", "the right experts in another order"
    logits = call.arguments["logits"]
    row = int((ids.sort(-1).values != chosen.sort(-1).values).any(-1).nonzero()[0])
    if _same_choice(logits[row], call.arguments["bias"].tensor, ids[row], chosen[row]):
        return "ROUTE-3", "among equal scores it does not take those of the lowest index"
    return "ROUTE-1", "it chooses other experts"


def _same_choice(logits: Tensor, bias: Tensor, ids: Tensor, chosen: Tensor) -> bool:
    """Whether two choices have equal logits and biases, so that only ties tell them apart."""
    pairs = torch.stack((logits, bias), dim=-1)
    mine, theirs = (sorted(map(tuple, pairs[i.long()].tolist())) for i in (ids, chosen))
    return mine == theirs


def _rms_norm(call: Call, expected: Results, found: Results) -> Broken | None:
    if torch.equal(expected[1], found[1]):
        return None
    return "RMS-NORM-EXACT-1", "h is not x + residual, rounded once"


def _embedding(call: Call, expected: Results, found: Results) -> Broken:
    return "EMBEDDING-1", "a row is not that of its id"


_RULES: dict[str, Callable[[Call, Results, Results], Broken | None]] = {
    "topk": _topk,
    "cache_write": _cache_write,
    "moe_dispatch": _dispatch,
    "moe_route": _route,
    "rms_norm": _rms_norm,
    "embedding": _embedding,
}
