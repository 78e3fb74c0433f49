"""Ops that move bytes: the reference's bytes, always."""

from collections.abc import Iterator

import torch

from glm5_hal import Runtime
from glm5_hal.conformance.call import answer
from glm5_hal.conformance.case import Case, Check, Evidence, Failure
from glm5_hal.conformance.families.judging import case, digests, parity, same_bytes
from glm5_hal.conformance.subjects import Variant, variants

_PARITY = {
    "EMBEDDING-1": "embedding",
    "CACHE-WRITE-1": "cache_write",
    "CACHE-READ-1": "cache_read",
    "DISPATCH-1": "moe_dispatch",
}


def cases() -> Iterator[Case]:
    """Parity of the data-movement ops, on bytes of every kind."""
    for requirement, op in _PARITY.items():
        for v in variants(op, kinds=("normal", "nan", "subnormal", "zeros")):
            yield case(requirement, "parity", v, parity(v.call))
    for v in variants("embedding", smallest_tokens=2):
        yield case("EMBEDDING-2", "parity", v, _equal_ids(v), tag="equal-ids")
    for v in variants("cache_write"):
        yield case("CACHE-WRITE-2", "parity", v, _untouched_slots(v), tag="untouched")
    for v in variants("moe_dispatch", smallest_tokens=1):
        yield case("DISPATCH-2", "parity", v, _hot_expert(v), tag="hot-expert")
        yield case("DISPATCH-3", "parity", v, _carried_rows(v), tag="rows")


def _equal_ids(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        ids = call.arguments["ids"]
        (found,) = answer(runtime, call.with_arguments(ids=ids[:1].expand_as(ids).contiguous()))
        same_bytes((found[:1].expand_as(found),), (found,), message="equal ids, unequal rows")
        return Evidence(digests((found,)))

    return check


def _untouched_slots(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        (found,) = answer(runtime, call)
        kept = torch.ones(found.shape[0], dtype=torch.bool)
        kept[call.arguments["slots"].long()] = False
        before = call.arguments["cache"].rows[kept]
        same_bytes((before,), (found[kept],), message="a slot that was not named has changed")
        return Evidence(digests((found,)))

    return check


def _hot_expert(v: Variant) -> Check:
    """All tokens to the first k experts: every other expert is empty, nothing is dropped."""

    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        ids = call.arguments["ids"]
        k = ids.shape[1]
        hot = torch.arange(k, dtype=torch.int32).expand_as(ids).contiguous()
        call = call.with_arguments(ids=hot)
        rows, offsets, slots = found = answer(runtime, call)
        wanted = (torch.arange(call.arguments["experts"] + 1).clamp(max=k) * ids.shape[0]).int()
        same_bytes((wanted,), (offsets,), message="offsets of a hot expert")
        if rows.shape[0] != ids.numel() or slots.sort().values.tolist() != list(range(ids.numel())):
            raise Failure("tokens were dropped or doubled", hint="a fixed capacity per expert")
        expected = call.defined(runtime.plan.numerics)
        same_bytes(expected, found, message="not the bytes of the reference")
        return Evidence(digests(found))

    return check


def _carried_rows(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        rows, _, slots = found = answer(runtime, call)
        k = call.arguments["ids"].shape[1]
        same_bytes(
            (call.arguments["x"][slots.long() // k],),
            (rows,),
            message="a row is not the token's that its slot names",
        )
        return Evidence(digests(found))

    return check
