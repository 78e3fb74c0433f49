"""The obvious torch expression of every op, as a backend: what a user would write without kernels.

No promise on order, ties or batches, and no arrangement for them. Expert rows go through torch's
own grouped product, as in transformers. An op call is answered on whatever device it is opened.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from glm5_hal import Backend, Cache, Capabilities, Numerics, PagedContext, Runtime, Weight
from glm5_hal.ops.muon_orthogonalize import COEFFICIENTS
from glm5_hal.ops.sample import DRAW_BITS
from glm5_hal.plan import make_plan


class PlainTorch(Backend):
    """Ops in plain torch. Not registered: it promises nothing.

    Args:
        index: unused, one device is named.
        device: a torch device.
    """

    name = "plain-torch"
    capabilities = Capabilities(dtypes=frozenset({torch.float32, torch.bfloat16}))

    def __init__(self, index: int = 0, device: str = "cpu") -> None:
        super().__init__(index)
        self._device = torch.device(device)

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        return True, "plain torch"

    @property
    def device(self) -> torch.device:
        return self._device

    def synchronize(self) -> None:
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)

    # --- rows ---

    def embedding(self, ids: Tensor, table: Weight) -> Tensor:
        return F.embedding(ids, table.tensor)

    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        return F.linear(x.to(w.dtype), w.tensor).to(out_dtype or x.dtype)

    def head_linear(self, x: Tensor, w: Weight) -> Tensor:
        return torch.einsum("thk,hnk->thn", x, w.tensor)

    def rms_norm(
        self, x: Tensor, w: Weight, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        h = x if residual is None else x + residual
        return F.rms_norm(h.float(), w.shape, w.tensor, eps).to(h.dtype), h

    def layer_norm(self, x: Tensor, w: Weight, b: Weight, eps: float) -> Tensor:
        return F.layer_norm(x.float(), w.shape, w.tensor, b.tensor, eps).to(x.dtype)

    def rope(self, x: Tensor, positions: Tensor, table: Weight, interleaved: bool) -> Tensor:
        cos, sin = table.tensor[positions].unsqueeze(1).to(x.dtype).chunk(2, dim=-1)
        if interleaved:
            a, b = x[..., 0::2], x[..., 1::2]
            return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

    def swiglu(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up

    # --- cache and attention ---

    def cache_write(self, cache: Cache, rows: Tensor, slots: Tensor) -> None:
        cache.tensor[slots] = rows

    def cache_read(self, cache: Cache, slots: Tensor) -> Tensor:
        return cache.tensor.index_select(0, slots)

    def latent_attention(
        self,
        q_latent: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        query, latent = torch.cat((q_latent, q_rope), dim=-1), q_latent.shape[-1]
        if indices is not None:  # gather each token's rows; its heads are the queries
            rows = cache.tensor[_slots(context, cache.page_size, indices)].unsqueeze(1)
            mask = (indices >= 0)[:, None, None, :]
            out = F.scaled_dot_product_attention(
                query.unsqueeze(1), rows, rows[..., :latent], attn_mask=mask, scale=scale
            )
            return out.squeeze(1)
        parts = []
        for tokens, rows, mask in _sequences(cache, context):
            heads = query[tokens].transpose(0, 1)  # [H, t, C + R]
            keys = rows.expand(heads.shape[0], -1, -1)
            out = F.scaled_dot_product_attention(
                heads, keys, keys[..., :latent], attn_mask=mask, scale=scale
            )
            parts.append(out.transpose(0, 1))
        return torch.cat(parts)

    def mla(
        self,
        q_nope: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        w_uk: Weight,
        w_uv: Weight,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        q_latent = self.head_linear(q_nope, w_uk)
        out = self.latent_attention(q_latent, q_rope, cache, context, scale, indices)
        return self.head_linear(out, w_uv)

    def mla_expanded(
        self,
        q_nope: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        w_uk: Weight,
        w_uv: Weight,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        query, latent = torch.cat((q_nope, q_rope), dim=-1), w_uk.shape[1]
        parts = []
        for tokens, rows, visible in _sequences(cache, context):
            content, position = rows[:, :latent], rows[:, latent:]
            nope = torch.einsum("sc,hcn->hsn", content, w_uk.tensor)
            keys = torch.cat((nope, position.expand(nope.shape[0], -1, -1)), dim=-1)
            values = torch.einsum("sc,hvc->hsv", content, w_uv.tensor)
            mask = visible if indices is None else _mask(indices[tokens], rows.shape[0])
            out = F.scaled_dot_product_attention(
                query[tokens].transpose(0, 1), keys, values, attn_mask=mask, scale=scale
            )
            parts.append(out.transpose(0, 1))
        return torch.cat(parts)

    # --- selection ---

    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        out = q.new_full((q.shape[0], context.max_length), -torch.inf, dtype=torch.float32)
        for tokens, rows, mask in _sequences(keys, context):
            dots = torch.einsum("thd,sd->ths", q[tokens], rows).relu_()
            scores = torch.einsum("th,ths->ts", w[tokens] * scale, dots.float())
            out[tokens, : rows.shape[0]] = scores.masked_fill_(~mask, -torch.inf)
        return out

    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        behind = torch.arange(scores.shape[1], device=scores.device) >= lengths.unsqueeze(1)
        best = scores.masked_fill(behind, -torch.inf).topk(min(k, scores.shape[1])).indices.int()
        # what lies behind a length comes last: it becomes the padding
        kept = torch.where(best < lengths.unsqueeze(1), best, -1)
        return F.pad(kept, (0, k - kept.shape[1]), value=-1)

    def dsa_select(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float, k: int
    ) -> Tensor:
        return self.topk(self.index_scores(q, w, keys, context, scale), context.lengths, k)

    # --- experts ---

    def moe_route(
        self,
        logits: Tensor,
        bias: Weight,
        k: int,
        n_group: int,
        topk_group: int,
        normalize: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        scores = logits.sigmoid()
        choice = scores + bias.tensor
        if n_group > 1:
            groups: Tensor = choice.unflatten(1, (n_group, -1))
            best = groups.topk(2, dim=-1).values.sum(-1).topk(topk_group).indices
            kept = torch.zeros_like(groups[..., 0], dtype=torch.bool).scatter_(1, best, True)
            choice = groups.masked_fill(~kept.unsqueeze(-1), -torch.inf).flatten(1)
        ids = choice.topk(k, sorted=False).indices
        weights = scores.gather(1, ids)
        if normalize:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return ids.int(), weights * scale

    def moe_dispatch(self, x: Tensor, ids: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
        slots = ids.flatten().argsort(stable=True)
        ends = ids.flatten().bincount(minlength=experts).cumsum(0)
        return x[slots // ids.shape[1]], F.pad(ends, (1, 0)).int(), slots.int()

    def moe_combine(
        self, rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None = None
    ) -> Tensor:
        by_slot = torch.empty_like(rows)
        by_slot[slots] = rows
        per_token = by_slot.view(*weights.shape, -1)
        out = torch.einsum("tkd,tk->td", per_token, weights.to(rows.dtype))
        return out if shared is None else out + shared

    def grouped_linear(self, x: Tensor, w: Weight, offsets: Tensor) -> Tensor:
        return _grouped(x, w.tensor, offsets)

    def moe_experts(
        self,
        x: Tensor,
        ids: Tensor,
        weights: Tensor,
        w_gate_up: Weight,
        w_down: Weight,
        shared: Tensor | None = None,
    ) -> Tensor:
        rows, offsets, slots = self.moe_dispatch(x, ids, w_gate_up.shape[0])
        hidden = self.swiglu(self.grouped_linear(rows, w_gate_up, offsets))
        return self.moe_combine(
            self.grouped_linear(hidden, w_down, offsets), slots, weights, shared
        )

    # --- the rest ---

    def muon_orthogonalize(self, g: Tensor, steps: int = 5) -> Tensor:
        a, b, c = COEFFICIENTS
        tall = g.shape[1] > g.shape[2]
        x: Tensor = (g.mT if tall else g).bfloat16()
        x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
        for _ in range(steps):
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
        return (x.mT if tall else x).to(g.dtype)

    def sample(self, logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> Tensor:
        heat = torch.where(temperature > 0, temperature, 1.0).unsqueeze(-1)
        p, order = torch.softmax(logits / heat, -1).sort(descending=True)
        mass = p.cumsum(-1)
        kept = p.masked_fill(mass - p >= top_p.unsqueeze(-1), 0.0).cumsum(-1)
        target = (draws.unsqueeze(-1) + 0.5) / 2**DRAW_BITS * kept[:, -1:]
        place = torch.searchsorted(kept, target).clamp(max=logits.shape[1] - 1)
        drawn = order.gather(1, place).squeeze(1)
        return torch.where(temperature > 0, drawn, logits.argmax(-1)).int()

    def linear_limbs(self, x: Tensor, w: Weight, exponents: Tensor) -> Tensor:
        """A rank's share in floats: what would be added up between ranks instead of limbs."""
        return F.linear(x, w.shard.columns).float()


def plain_runtime(device: str = "cpu") -> Runtime:
    """A runtime on plain torch."""
    return Runtime(make_plan(PlainTorch, 0, Numerics.FAST), PlainTorch(0, device))


def unordered(scores: Tensor, lengths: Tensor, k: int) -> Tensor:
    """Top-k of whole rows as torch has it: which of equal scores are taken is nobody's promise."""
    return scores.topk(k).indices


def in_order(scores: Tensor, lengths: Tensor, k: int) -> Tensor:
    """Top-k of whole rows with the contract's choice: a stable sort."""
    return scores.sort(descending=True, stable=True).indices[:, :k]


EXPRESSIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {"torch.topk": unordered, "torch.sort": in_order}
)
"""Further expressions of single ops, by the name that a report shows."""
WITHOUT = ("row_exponents", "linear_from_limbs")
"""Steps of the exact profile that plain torch has no need of."""


def _slots(context: PagedContext, page_size: int, positions: Tensor) -> Tensor:
    """Slots [T, k] of positions [T, k]; padding names the first row."""
    rows = positions.clamp(min=0).long()
    pages = context.page_table[context.sequence].gather(1, rows // page_size)
    return pages.long() * page_size + rows % page_size


def _sequences(cache: Cache, context: PagedContext) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Of each sequence that has tokens: which (a slice), its rows [S, W], what each sees [t, S]."""
    counts = context.sequence.unique_consecutive(return_counts=True)
    start = 0
    for sequence, count in zip(*(part.tolist() for part in counts), strict=True):
        tokens = slice(start, start + count)
        start += count
        lengths = context.lengths[tokens]
        place = torch.arange(int(lengths.max()), device=lengths.device)
        pages = context.page_table[sequence].long()
        size = cache.page_size
        slots = pages[place // size] * size + place % size
        yield tokens, cache.tensor[slots], place < lengths.unsqueeze(1)


def _mask(indices: Tensor, rows: int) -> Tensor:
    """[t, S] bool, true at the named positions."""
    mask = torch.zeros(indices.shape[0], rows + 1, dtype=torch.bool, device=indices.device)
    named = torch.where(indices >= 0, indices, rows).long()  # padding marks the column too many
    return mask.scatter_(1, named, True)[:, :rows]


def _grouped(x: Tensor, w: Tensor, offsets: Tensor) -> Tensor:
    grouped = getattr(F, "grouped_mm", None) or torch._grouped_mm  # public from torch 2.10 on
    out: Tensor = grouped(x, w.mT, offs=offsets[1:])
    return out
