"""Independence: the same token gives the same bytes in any company and any schedule."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from glm5_hal import PagedContext, Runtime
from glm5_hal.conformance.call import CacheValue, Call, answer
from glm5_hal.conformance.case import Case, Check, Evidence
from glm5_hal.conformance.data import permutation
from glm5_hal.conformance.families.judging import case, digests, same_bytes
from glm5_hal.conformance.subjects import Variant, variants
from glm5_hal.levels import Level

INDEPENDENCE = {
    "linear": "LINEAR-2",
    "head_linear": "HEAD-LINEAR-2",
    "rms_norm": "RMS-NORM-3",
    "layer_norm": "LAYER-NORM-2",
    "rope": "ROPE-3",
    "swiglu": "SWIGLU-2",
    "latent_attention": "ATTENTION-5",
    "mla": "MLA-2",
    "mla_expanded": "MLA-EXPANDED-2",
    "index_scores": "INDEX-SCORES-3",
    "topk": "TOPK-5",
    "dsa_select": "DSA-SELECT-2",
    "moe_route": "ROUTE-6",
    "moe_experts": "EXPERTS-2",
    "sample": "SAMPLE-4",
}
"""Ops with a token dimension and the requirement that makes tokens independent."""

_PAGED = ("latent_attention", "mla", "mla_expanded", "index_scores", "dsa_select")
_FLOAT_ONLY = frozenset({"topk", "moe_route", "sample"})

_BATCH = Level.BATCH_INVARIANT.value
_SCHEDULE = Level.SCHEDULE_INVARIANT.value
_HINT = "differs only with the batch: a split, tile or kernel chosen by shape"

Change = Callable[[Call], Iterator[tuple[str, Call, Tensor, Tensor]]]
"""Yields (what changed, changed call, tokens of the original, their places in the changed)."""


def cases() -> Iterator[Case]:
    """Batch and schedule invariance of every op that works token by token."""
    for op, requirement in INDEPENDENCE.items():
        dtypes = ("fp32",) if op in _FLOAT_ONLY else ("fp32", "bf16")
        for v in variants(op, dtypes=dtypes, smallest_tokens=2):
            for tag, change in (("alone", _alone), ("order", _order), ("crowd", _crowd)):
                yield case(
                    requirement, "invariance", v, _unchanged(v, change), aspect=_BATCH, tag=tag
                )
            yield case(
                requirement, "invariance", v, _neighbours(v), aspect=_BATCH, tag="neighbours"
            )
            yield case(
                requirement, "invariance", v, _unchanged(v, _split), aspect=_SCHEDULE, tag="split"
            )
    for op in _PAGED:
        for v in variants(op):
            yield case(INDEPENDENCE[op], "invariance", v, _pages(v), aspect=_SCHEDULE, tag="pages")
    for v in variants("grouped_linear", smallest_tokens=2):
        yield case("GROUPED-LINEAR-2", "invariance", v, _expert_rows(v), aspect=_BATCH, tag="rows")
    for v in variants("moe_combine", smallest_tokens=2):
        yield case("COMBINE-2", "invariance", v, _combine_rows(v), aspect=_BATCH, tag="rows")
    for v in variants("muon_orthogonalize"):
        yield case("MUON-3", "invariance", v, _matrices(v), aspect=_BATCH, tag="alone")


def _rows(results: tuple[Tensor, ...], tokens: Tensor) -> tuple[Tensor, ...]:
    return tuple(part[tokens] for part in results)


def _unchanged(v: Variant, change: Change) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        found = answer(runtime, call)
        for what, other, tokens, places in change(call):
            same_bytes(
                _rows(found, tokens),
                _rows(answer(runtime, other), places),
                message="a token's result depends on the batch",
                change=what,
                hint=_HINT,
            )
        return Evidence(digests(found))

    return check


def _alone(call: Call) -> Iterator[tuple[str, Call, Tensor, Tensor]]:
    """First, middle and last token each in a call of its own."""
    for token in sorted({0, call.tokens // 2, call.tokens - 1}):
        picked = torch.tensor([token])
        yield f"token {token} alone", call.take(picked), picked, torch.tensor([0])


def _order(call: Call) -> Iterator[tuple[str, Call, Tensor, Tensor]]:
    """Tokens in reverse; where there are sequences, whole sequences in reverse."""
    context = _context(call)
    if context is None:
        order = torch.arange(call.tokens - 1, -1, -1)
    else:
        order = torch.sort(-context.sequence.long(), stable=True).indices
    yield "tokens in another order", call.take(order), order, torch.arange(call.tokens)


def _crowd(call: Call) -> Iterator[tuple[str, Call, Tensor, Tensor]]:
    """The same tokens among 31 times as many more, standing first, and standing last."""
    copies = 3 if call.tokens > 16 else 31
    every = torch.arange(call.tokens)
    crowded = _repeated(call, copies)
    yield "first of a crowd", crowded, every, every
    yield "last of a crowd", crowded, every, every + (copies - 1) * call.tokens


def _repeated(call: Call, copies: int) -> Call:
    """`copies` of the call in one: further sequences that share the pages of the first."""
    context = _context(call)
    many = call.take(torch.arange(call.tokens).repeat(copies))
    if context is None:
        return many
    batch = context.page_table.shape[0]
    shift = torch.arange(copies, dtype=torch.int32).repeat_interleave(call.tokens) * batch
    wide = replace(
        _context(many) or context,
        page_table=context.page_table.repeat(copies, 1),
        sequence=context.sequence.repeat(copies) + shift,
    )
    return many.with_arguments(context=wide)


def _split(call: Call) -> Iterator[tuple[str, Call, Tensor, Tensor]]:
    """Chunks of one token and of seven."""
    for size in (1, 7):
        starts = range(0, call.tokens, size)
        # every chunk of a long call would only repeat the first ones
        for start in sorted({*list(starts)[:4], *list(starts)[-2:]}):
            tokens = torch.arange(start, min(start + size, call.tokens))
            places = torch.arange(tokens.shape[0])
            yield f"chunks of {size}, from token {start}", call.take(tokens), tokens, places


def _context(call: Call) -> PagedContext | None:
    found = call.arguments.get("context")
    return found if isinstance(found, PagedContext) else None


def _neighbours(v: Variant) -> Check:
    """Every other token's activations turn NaN; one token keeps its bytes."""

    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        found = answer(runtime, call)
        for token in sorted({0, call.tokens // 2}):
            kept = torch.arange(call.tokens) == token
            changed: dict[str, Any] = {}
            for name in call.per_token():
                value = call.arguments[name]
                if value.is_floating_point() and name not in ("temperature", "top_p"):
                    mask = kept.reshape(-1, *[1] * (value.dim() - 1))
                    changed[name] = torch.where(mask, value, torch.nan)
            picked = torch.tensor([token])
            same_bytes(
                _rows(found, picked),
                _rows(answer(runtime, call.with_arguments(**changed)), picked),
                message="a token's result depends on its neighbours' content",
                change=f"all tokens but {token} are NaN",
                hint="a row is read that belongs to another token",
            )
        return Evidence(digests(found))

    return check


def _pages(v: Variant) -> Check:
    """The same rows on other pages, a wider page table, a larger bound on the length."""

    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        found = answer(runtime, call)
        name = "keys" if "keys" in call.arguments else "cache"
        cache: CacheValue = call.arguments[name]
        context: PagedContext = call.arguments["context"]
        pages = cache.rows.shape[0] // cache.page_size
        order = permutation(v.name("other-pages"), pages)  # new place of each page
        moved = torch.empty_like(cache.rows)
        moved.unflatten(0, (pages, -1))[order] = cache.rows.unflatten(0, (pages, -1))
        table = torch.where(
            context.page_table >= 0, order[context.page_table.long().clamp(min=0)].int(), -1
        )
        wider = torch.cat((table, torch.full((table.shape[0], 3), -1, dtype=torch.int32)), 1)
        other = call.with_arguments(
            **{name: replace(cache, rows=moved)}, context=replace(context, page_table=wider)
        )
        same_bytes(
            found,
            answer(runtime, other),
            message="the result depends on which pages hold the rows",
            change="pages permuted, page table wider",
        )
        longer = call.with_arguments(context=replace(context, max_length=context.max_length + 70))
        again = answer(runtime, longer)
        cut = tuple(part[:, : first.shape[1]] for part, first in zip(again, found, strict=True))
        same_bytes(
            found,
            cut,
            message="the result depends on max_length",
            change="max_length larger by 70",
            hint="a number of splits chosen by the longest sequence of the batch",
        )
        return Evidence(digests(found))

    return check


def _expert_rows(v: Variant) -> Check:
    """Each expert's rows alone, then all rows with an unequal spread."""

    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        found = answer(runtime, call)
        offsets = call.arguments["offsets"]
        for expert in range(offsets.shape[0] - 1):
            start, stop = int(offsets[expert]), int(offsets[expert + 1])
            for first, last in {(start, stop), (start, min(start + 1, stop))}:
                if last == first:
                    continue
                alone = torch.zeros_like(offsets)
                alone[expert + 1 :] = last - first
                other = call.with_arguments(x=call.arguments["x"][first:last], offsets=alone)
                same_bytes(
                    tuple(part[first:last] for part in found),
                    answer(runtime, other),
                    message="a row depends on how many rows its expert or another has",
                    change=f"rows {first} to {last - 1} of expert {expert} alone",
                    hint=_HINT,
                )
        return Evidence(digests(found))

    return check


def _combine_rows(v: Variant) -> Check:
    """The same rows in another expert order, and each token alone."""

    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        found = answer(runtime, call)
        a = call.arguments
        order = permutation(v.name("order"), a["rows"].shape[0])
        other = call.with_arguments(rows=a["rows"][order], slots=a["slots"][order])
        same_bytes(
            found,
            answer(runtime, other),
            message="the order of the rows reaches the sum",
            change="rows and slots permuted together",
            hint="summed in order of arrival or of experts, not of slots; or with atomics",
        )
        k = a["weights"].shape[1]
        for token in (0, v.shape["T"] - 1):
            mine = ((a["slots"] // k) == token).nonzero().squeeze(1)
            alone = call.with_arguments(
                rows=a["rows"][mine],
                slots=(a["slots"][mine] - token * k).int(),
                weights=a["weights"][token : token + 1],
                shared=a["shared"][token : token + 1],
            )
            same_bytes(
                tuple(part[token : token + 1] for part in found),
                answer(runtime, alone),
                message="a token's sum depends on other tokens",
                change=f"token {token} alone",
                hint=_HINT,
            )
        return Evidence(digests(found))

    return check


def _matrices(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        found = answer(runtime, call)
        g = call.arguments["g"]
        crowd = call.with_arguments(g=torch.cat((torch.full_like(g, torch.nan), g)))
        parts = [
            (f"matrix {i} alone", call.with_arguments(g=g[i : i + 1]), i) for i in range(len(g))
        ]
        for what, other, i in parts:
            same_bytes(
                (found[0][i : i + 1],),
                answer(runtime, other),
                message="a matrix depends on the others of the batch",
                change=what,
                hint=_HINT,
            )
        same_bytes(
            found,
            tuple(part[len(g) :] for part in answer(runtime, crowd)),
            message="a matrix depends on the others of the batch",
            change="matrices of NaN in front",
            hint=_HINT,
        )
        return Evidence(digests(found))

    return check
