"""Mistakes that answer as if an argument were another: a call to try, and what it would break.

If the right backend, given the changed argument, gives the wrong backend's bytes, that is what the
wrong one computes.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from glm5_hal import PagedContext
from glm5_hal.conformance.call import Call, WeightValue

Change = Callable[[Call], Call]


@dataclass(frozen=True)
class AsIf:
    """A mistake.

    Attributes:
        requirement: the id that it breaks.
        text: completes "answers as if".
        change: the call that is answered instead; None where it does not apply.
    """

    requirement: str
    text: str
    change: Callable[[Call], Call | None]


def of(call: Call) -> Iterator[tuple[AsIf, Call]]:
    """The mistakes that can be tried on a call, and the changed calls."""
    for mistake in _KNOWN.get(call.op, ()):
        changed = mistake.change(call)
        if changed is not None:
            yield mistake, changed


def _flip(name: str) -> Change:
    return lambda call: call.with_arguments(**{name: not call.arguments[name]})


def _set(name: str, value: object) -> Callable[[Call], Call | None]:
    def change(call: Call) -> Call | None:
        same = call.arguments[name] is None or call.arguments[name] == value
        return None if same else call.with_arguments(**{name: value})

    return change


def _none(name: str) -> Callable[[Call], Call | None]:
    def change(call: Call) -> Call | None:
        return None if call.arguments[name] is None else call.with_arguments(**{name: None})

    return change


def _weight(name: str, change: Callable[[Tensor], Tensor]) -> Change:
    def changed(call: Call) -> Call:
        value: WeightValue = call.arguments[name]
        return call.with_arguments(**{name: WeightValue(value.role, change(value.tensor))})

    return changed


def _moved(step: int) -> Change:
    """Positions in front of the first and behind the last are the first and the last."""

    def change(call: Call) -> Call:
        longest = call.arguments["table"].tensor.shape[0] - 1
        return call.with_arguments(positions=(call.arguments["positions"] + step).clamp(0, longest))

    return change


def _halves(call: Call) -> Call:
    gate, up = call.arguments["gate_up"].chunk(2, dim=-1)
    return call.with_arguments(gate_up=torch.cat((up, gate), dim=-1))


def _lengths(step: int) -> Callable[[Call], Call | None]:
    def change(call: Call) -> Call | None:
        context: PagedContext = call.arguments["context"]
        lengths = (context.lengths + step).clamp(1, context.max_length)
        if torch.equal(lengths, context.lengths):
            return None
        return _in_context(call, lengths=lengths)

    return change


def _pages(step: int) -> Callable[[Call], Call | None]:
    """Every page is the one that lies `step` behind, around the end."""

    def change(call: Call) -> Call | None:
        cache = call.arguments["keys" if "keys" in call.arguments else "cache"]
        table = call.arguments["context"].page_table
        pages = cache.rows.shape[0] // cache.page_size
        moved = torch.where(table < 0, table, (table + step) % pages)
        return None if torch.equal(moved, table) else _in_context(call, page_table=moved)

    return change


def _table(call: Call) -> Call | None:
    """Logical pages one late: page p of a sequence is looked up as page p + 1."""
    table = call.arguments["context"].page_table
    return None if table.shape[1] < 2 else _in_context(call, page_table=table.roll(-1, 1))


def _first_sequence(call: Call) -> Call | None:
    sequence = call.arguments["context"].sequence
    if not bool(sequence.any()):
        return None
    return _in_context(call, sequence=torch.zeros_like(sequence))


def _in_context(call: Call, **changed: Tensor) -> Call:
    context = dataclasses.replace(call.arguments["context"], **changed)
    return call.with_arguments(context=context)


def _scale_of_the_row(call: Call) -> Call:
    width = call.arguments["cache"].rows.shape[1]
    return call.with_arguments(scale=width**-0.5)


def _whole_rows(call: Call) -> Call:
    lengths, width = call.arguments["lengths"], call.arguments["scores"].shape[1]
    return call.with_arguments(lengths=torch.full_like(lengths, width))


def _mirrored(table: Tensor) -> Tensor:
    """The RoPE table with negative sines."""
    cos, sin = table.chunk(2, dim=-1)
    return torch.cat((cos, -sin), dim=-1)


def _pages_of(requirement: str) -> tuple[AsIf, ...]:
    return (
        AsIf(requirement, "every page were the next one of the cache", _pages(1)),
        AsIf(requirement, "every page were the one before in the cache", _pages(-1)),
        AsIf(requirement, "each page of a sequence were its next one", _table),
        AsIf(requirement, "all tokens belonged to the first sequence", _first_sequence),
        AsIf(requirement, "every length were one less", _lengths(-1)),
        AsIf(requirement, "every length were one more", _lengths(1)),
    )


_INDICES = "there were no indices: all visible rows"
_KNOWN: dict[str, tuple[AsIf, ...]] = {
    "rope": (
        AsIf("ROPE-1", "interleaved were the other value: halves for pairs", _flip("interleaved")),
        AsIf("ROPE-3", "every position were one more", _moved(1)),
        AsIf("ROPE-3", "every position were one less", _moved(-1)),
        AsIf("ROPE-2", "the angle had the other sign", _weight("table", _mirrored)),
    ),
    "rms_norm": (
        AsIf("RMS-NORM-1", "there were no residual", _none("residual")),
        AsIf("RMS-NORM-2", "eps were 0", _set("eps", 0.0)),
        AsIf("RMS-NORM-2", "eps were 1e-6", _set("eps", 1e-6)),
        AsIf("RMS-NORM-2", "eps were 1e-5", _set("eps", 1e-5)),
        AsIf("RMS-NORM-2", "the weight were 1", _weight("w", torch.ones_like)),
    ),
    "layer_norm": (
        AsIf("LAYER-NORM-1", "eps were 0", _set("eps", 0.0)),
        AsIf("LAYER-NORM-1", "eps were 1e-5", _set("eps", 1e-5)),
        AsIf("LAYER-NORM-1", "the bias were 0", _weight("b", torch.zeros_like)),
    ),
    "swiglu": (AsIf("SWIGLU-1", "gate and up had changed places", _halves),),
    "head_linear": (
        AsIf("HEAD-LINEAR-3", "head h used matrix h + 1", _weight("w", lambda t: t.roll(-1, 0))),
        AsIf("HEAD-LINEAR-3", "head h used matrix h - 1", _weight("w", lambda t: t.roll(1, 0))),
    ),
    "grouped_linear": (
        AsIf("GROUPED-LINEAR-1", "expert e were e + 1", _weight("w", lambda t: t.roll(-1, 0))),
        AsIf("GROUPED-LINEAR-1", "expert e were e - 1", _weight("w", lambda t: t.roll(1, 0))),
    ),
    "latent_attention": (
        AsIf("ATTENTION-3", _INDICES, _none("indices")),
        AsIf("ATTENTION-1", "the scale were that of the cached row", _scale_of_the_row),
        *_pages_of("ATTENTION-2"),
    ),
    "mla": (
        AsIf("MLA-2", _INDICES, _none("indices")),
        AsIf("MLA-1", "the scale were that of the cached row", _scale_of_the_row),
        *_pages_of("MLA-2"),
    ),
    "index_scores": (
        AsIf("INDEX-SCORES-1", "the scale were 1", _set("scale", 1.0)),
        *_pages_of("INDEX-SCORES-3"),
    ),
    "dsa_select": _pages_of("DSA-SELECT-1"),
    "topk": (AsIf("TOPK-5", "all columns were valid", _whole_rows),),
    "moe_route": (
        AsIf("ROUTE-1", "there were no bias", _weight("bias", torch.zeros_like)),
        AsIf("ROUTE-2", "there were no group limits", _set("n_group", 1)),
        AsIf("ROUTE-5", "normalize were the other value", _flip("normalize")),
        AsIf("ROUTE-5", "the scale were 1", _set("scale", 1.0)),
    ),
    "moe_combine": (AsIf("COMBINE-1", "there were no shared expert", _none("shared")),),
    "moe_experts": (AsIf("EXPERTS-1", "there were no shared expert", _none("shared")),),
}
