"""The fewest rows of a call on which two backends still differ."""

from collections.abc import Callable

import torch
from torch import Tensor

from glm5_hal.conformance.bisect import layout
from glm5_hal.conformance.call import Call

Differs = Callable[[Call], bool]
"""Whether two backends answer a call differently."""


def rows(call: Call) -> int:
    """How many rows of a call can be taken one by one; 0 if they cannot."""
    if call.op == "grouped_linear":
        return int(call.arguments["x"].shape[0])
    return call.tokens if call.per_token() else 0


def take(call: Call, kept: Tensor) -> Call:
    """The call for some of its rows (int64, ascending), in the layout that they had."""
    taken = _TAKE.get(call.op, Call.take)(call, kept)
    return taken.with_arguments(
        **{
            name: layout.lay(value, call.arguments[name].stride())
            for name, value in taken.arguments.items()
            if isinstance(value, Tensor) and not call.arguments[name].is_contiguous()
        }
    )


def _of_experts(call: Call, kept: Tensor) -> Call:
    """Rows of grouped_linear stay with their expert."""
    a = call.arguments
    offsets = a["offsets"].long()
    expert = torch.repeat_interleave(torch.arange(offsets.shape[0] - 1), offsets.diff())[kept]
    counts = torch.bincount(expert, minlength=offsets.shape[0] - 1)
    starts = torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)))
    return call.with_arguments(x=a["x"][kept], offsets=starts.int())


def _of_slots(call: Call, kept: Tensor) -> Call:
    """Tokens of moe_combine with their expert rows, in the order in which those stood."""
    a = call.arguments
    k = a["weights"].shape[1]
    place = torch.full((a["weights"].shape[0],), -1, dtype=torch.int64)
    place[kept] = torch.arange(kept.shape[0])
    slots = a["slots"].long()
    mine = place[slots // k] >= 0
    renumbered = place[slots[mine] // k] * k + slots[mine] % k
    shared = None if a["shared"] is None else a["shared"][kept]
    return call.with_arguments(
        rows=a["rows"][mine], slots=renumbered.int(), weights=a["weights"][kept], shared=shared
    )


_TAKE: dict[str, Callable[[Call, Tensor], Call]] = {
    "grouped_linear": _of_experts,
    "moe_combine": _of_slots,
}


def reduce(call: Call, differs: Differs) -> Call:
    """The fewest rows on which backends still differ, by halving; the call itself if all count.

    Parts are left out one after the other, halves first, then quarters, down to single rows, for
    as long as what remains differs.
    """
    kept = torch.arange(rows(call))
    size = (kept.shape[0] + 1) // 2
    while size and kept.shape[0] > 1:
        kept, fewer = _without(call, kept, size, differs)
        size = min(size, kept.shape[0] // 2) if fewer else size // 2
    return take(call, kept) if kept.shape[0] < rows(call) else call


def _without(call: Call, kept: Tensor, size: int, differs: Differs) -> tuple[Tensor, bool]:
    """Leave out every part of `size` rows that is not needed: what remains, and whether any was."""
    start, fewer = 0, False
    while start < kept.shape[0] and kept.shape[0] > 1:
        rest = torch.cat((kept[:start], kept[start + size :]))
        if rest.shape[0] and differs(take(call, rest)):
            kept, fewer = rest, True
        else:
            start += size
    return kept, fewer
