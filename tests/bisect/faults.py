"""Faults as they happen, to be planted into one layer of a model that is sound elsewhere."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from glm5_hal import Cache, PagedContext, Weight
from glm5_hal.conformance.bisect.planting import Fault
from glm5_hal.ops.topk import order_key

Sound = Callable[..., Any]


def ties_to_the_highest(sound: Sound, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
    """`>=` where `>` belongs."""
    out = torch.full((scores.shape[0], k), -1, dtype=torch.int32)
    for row, length in enumerate(lengths.tolist()):
        keys = order_key(scores[row, :length]).flip(0)
        best = length - 1 - torch.sort(keys, descending=True, stable=True).indices[:k]
        out[row, : best.numel()] = best.sort().values.int()
    return out


def selects_ties_highest(
    sound: Sound, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float, k: int
) -> Tensor:
    """The same in a fused kernel: scores are right, ties are not."""
    from glm5_hal import ops

    scores = ops.index_scores(q, w, keys, context, scale)
    return ties_to_the_highest(sound, scores, context.lengths, k)


def swapped_halves(
    sound: Sound, x: Tensor, positions: Tensor, table: Weight, interleaved: bool
) -> Tensor:
    """Pairs are taken from two halves, or the other way."""
    return sound(x, positions, table, not interleaved)


def next_page(
    sound: Sound,
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Cache,
    context: PagedContext,
    scale: float,
    indices: Tensor | None = None,
) -> Tensor:
    """The page table is read one page off."""
    table = context.page_table
    moved = torch.where(table < 0, table, (table + 1) % cache.pages)
    return sound(q_latent, q_rope, cache, replace(context, page_table=moved), scale, indices)


def no_residual(
    sound: Sound, x: Tensor, w: Weight, eps: float, residual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The norm is taken without the residual; the sum that is returned is right."""
    y, h = sound(x, w, eps, residual)
    return (y if residual is None else sound(x, w, eps, None)[0]), h


def one_bit_of_one_row(
    sound: Sound, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None
) -> Tensor:
    """A kernel for many rows rounds the last one another way."""
    y: Tensor = sound(x, w, out_dtype)
    if x.shape[0] < 8 or y.dtype != x.dtype:
        return y
    word = {2: torch.int16, 4: torch.int32}[y.element_size()]
    y.view(word)[-1, 3] ^= 1
    return y


def neighbour_overwritten(sound: Sound, cache: Cache, rows: Tensor, slots: Tensor) -> None:
    """A store runs on into the slot behind the last."""
    sound(cache, rows, slots)
    behind = (slots[-1:] + 1) % cache.shape[0]
    sound(cache, rows[-1:], behind)


def unbiased(
    sound: Sound, logits: Tensor, bias: Weight, *rest: Any, **named: Any
) -> tuple[Tensor, Tensor]:
    """Experts are chosen by their scores alone, with weights that fit the choice."""
    return sound(logits, replace(bias, data=torch.zeros_like(bias.tensor)), *rest, **named)


def shared_forgotten(
    sound: Sound, rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None = None
) -> Tensor:
    """The shared expert's output is not added."""
    return sound(rows, slots, weights, None)


def exchanged(sound: Sound, gate_up: Tensor) -> Tensor:
    """Gate and up have changed places."""
    gate, up = gate_up.chunk(2, dim=-1)
    return sound(torch.cat((up, gate), dim=-1))


def unscaled(
    sound: Sound, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
) -> Tensor:
    """Scores without their scale: the same order, other numbers."""
    return sound(q, w, keys, context, 1.0)


def dense(
    sound: Sound,
    q_nope: Tensor,
    q_rope: Tensor,
    cache: Cache,
    context: PagedContext,
    w_uk: Weight,
    w_uv: Weight,
    scale: float,
    indices: Tensor | None = None,
) -> Tensor:
    """A fused kernel that accepts indices and does not look at them."""
    return sound(q_nope, q_rope, cache, context, w_uk, w_uv, scale, None)


@dataclass(frozen=True)
class Planted:
    """A fault and what a bisection has to say of it.

    Attributes:
        op: where it is planted.
        fault: what is wrong.
        number: of the op's calls in a layer, the first that it shows in.
        requirement: the id that it breaks.
        within: the composite that the call is a part of.
    """

    op: str
    fault: Fault
    requirement: str
    number: int = 0
    within: str = ""

    def site(self, layer: int) -> str:
        """Name of the call at fault."""
        call = f"{self.op}#{self.number}"
        return f"layer{layer}.{self.within}#0/{call}" if self.within else f"layer{layer}.{call}"


PLANTED = {
    "tie": Planted("dsa_select", selects_ties_highest, "TOPK-1"),
    "rope-half": Planted("rope", swapped_halves, "ROPE-1"),
    "next-page": Planted("latent_attention", next_page, "ATTENTION-2", within="mla"),
    "no-residual": Planted("rms_norm", no_residual, "RMS-NORM-1", number=2),
    "one-bit": Planted("linear", one_bit_of_one_row, "LINEAR-2"),
    "neighbour": Planted("cache_write", neighbour_overwritten, "CACHE-WRITE-2"),
    "unbiased": Planted("moe_route", unbiased, "ROUTE-1"),
    "no-shared": Planted("moe_combine", shared_forgotten, "COMBINE-1", within="moe_experts"),
    "exchanged": Planted("swiglu", exchanged, "SWIGLU-1"),
    "dense-kernel": Planted("mla", dense, "MLA-2"),
    "unscaled": Planted("index_scores", unscaled, "INDEX-SCORES-1", within="dsa_select"),
}
