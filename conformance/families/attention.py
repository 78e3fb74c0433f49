"""Which rows attention may see: selection, lengths, stale slots, foreign NaN."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from glm5_hal import PagedContext, Runtime
from glm5_hal.conformance.call import CacheValue, Call, answer
from glm5_hal.conformance.case import Case, Check, Evidence, Failure
from glm5_hal.conformance.families.judging import case, digests, same_bytes
from glm5_hal.conformance.subjects import Variant, variants


def cases() -> Iterator[Case]:
    """The visibility requirements of latent_attention and of the two forms of MLA."""
    for v in variants("latent_attention"):
        if v.shape["k"] == 0:
            yield case("ATTENTION-2", "parity", v, _stale_rows(v), tag="stale")
            yield case("ATTENTION-4", "parity", v, _all_rows_named(v), tag="all-named")
        else:
            yield case("ATTENTION-3", "parity", v, _only_named_rows(v), tag="only-named")
            yield case("ATTENTION-3", "parity", v, _padding(v), tag="padding")
        if v.shape["T"] >= 3:
            yield case("ATTENTION-6", "parity", v, _foreign_nan(v), tag="foreign-nan")
    for op, requirement in (("mla", "MLA-2"), ("mla_expanded", "MLA-EXPANDED-2")):
        for v in variants(op):
            if v.shape["k"]:
                yield case(requirement, "parity", v, _only_named_rows(v), tag="only-named")


def _cache_with(call: Call, slots: torch.Tensor, value: float) -> CacheValue:
    """The call's cache with some slots overwritten."""
    cache: CacheValue = call.arguments["cache"]
    rows = cache.rows.clone()
    rows[slots] = value
    return replace(cache, rows=rows)


def _visible_slots(call: Call, token: int) -> torch.Tensor:
    context: PagedContext = call.arguments["context"]
    return context.slots(token, call.arguments["cache"].page_size)


def _unseen_slots(call: Call) -> torch.Tensor:
    """Slots that no token of the call may read."""
    cache: CacheValue = call.arguments["cache"]
    unseen = torch.ones(cache.rows.shape[0], dtype=torch.bool)
    indices = call.arguments["indices"]
    for token in range(call.tokens):
        unseen[call.arguments["context"].slots(token, cache.page_size, indices)] = False
    return unseen.nonzero().squeeze(1)


def _unmoved(v: Variant, message: str, hint: str) -> Check:
    """What stands in unseen slots changes no byte: NaN, zeros, large values."""

    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        unseen = _unseen_slots(call)
        found = answer(runtime, call.with_arguments(cache=_cache_with(call, unseen, 0.0)))
        for value in (torch.nan, 1e4):
            other = call.with_arguments(cache=_cache_with(call, unseen, value))
            same_bytes(
                found,
                answer(runtime, other),
                message=message,
                change=f"unseen slots hold {value}",
                hint=hint,
            )
        if not bool(found[0].isfinite().all()):
            raise Failure(message, change="unseen slots hold 0.0", hint=hint)
        return Evidence(digests(found))

    return check


def _stale_rows(v: Variant) -> Check:
    return _unmoved(
        v,
        "rows behind a length, or of no sequence, reach the result",
        "a page is read to its end, or masked after multiplying (0 * NaN is NaN)",
    )


def _only_named_rows(v: Variant) -> Check:
    return _unmoved(
        v,
        "rows that indices do not name reach the result",
        "dense attention instead of the selection, or masked after multiplying",
    )


def _all_rows_named(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        lengths = call.arguments["context"].lengths
        place = torch.arange(int(lengths.max()), dtype=torch.int32)
        named = torch.where(place < lengths.unsqueeze(1), place, -1)
        found = answer(runtime, call)
        same_bytes(
            found,
            answer(runtime, call.with_arguments(indices=named)),
            message="naming all visible rows gives other bytes than naming none",
            hint="the dense and the sparse path sum in another order",
        )
        return Evidence(digests(found))

    return check


def _padding(v: Variant) -> Check:
    """More padding, and entries behind the first -1, change nothing."""

    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        indices = call.arguments["indices"]
        found = answer(runtime, call)
        for extra in (1, 130):
            padding = torch.full((indices.shape[0], extra), -1, dtype=torch.int32)
            longer = torch.cat((indices, padding), dim=1)
            if extra > 1:
                longer[:, -1] = 0  # behind a -1: to be ignored
            same_bytes(
                found,
                answer(runtime, call.with_arguments(indices=longer)),
                message="padding of the indices reaches the result",
                change=f"{extra} entries appended",
                hint="-1 read as the last row, or entries behind the first -1 used",
            )
        return Evidence(digests(found))

    return check


def _foreign_nan(v: Variant) -> Check:
    """NaN in a row that only some tokens see turns these and no other."""

    def check(runtime: Runtime) -> Evidence:
        call = v.call().with_arguments(indices=None)
        last = call.tokens - 1  # the last token of the last sequence alone sees its last row
        slot = _visible_slots(call, last)[-1:]
        spoiled = call.with_arguments(cache=_cache_with(call, slot, torch.nan))
        clean, found = answer(runtime, call), answer(runtime, spoiled)
        same_bytes(
            tuple(part[:last] for part in clean),
            tuple(part[:last] for part in found),
            message="NaN in a row reaches a token that does not see it",
            hint="masked after multiplying: 0 * NaN is NaN",
        )
        if not bool(found[0][last].isnan().all()):
            raise Failure("NaN in a visible row is lost")
        return Evidence(digests(found))

    return check
