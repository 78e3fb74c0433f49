"""Every op in plain torch, in float64 inside and rounded once."""

from importlib.metadata import version

import torch
from torch import Tensor

from glm5_hal import Backend, Cache, Capabilities, PagedContext, Weight, WeightRole
from hal_demo_backend.handles import empty_pages, matrix, pages, prepared, values


class DemoBackend(Backend):
    """Correct and slow."""

    name = "demo"
    aliases = ("demonstration",)
    capabilities = Capabilities(
        dtypes=frozenset({torch.float32, torch.bfloat16}),
        unsupported={"mla_expanded": "the demonstration attends to latent rows only"},
    )

    # --- identity and device ---

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        return True, "plain torch"

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @classmethod
    def versions(cls) -> dict[str, str]:
        return {"torch": torch.__version__, "hal-demo-backend": version("hal-demo-backend")}

    # --- what it keeps ---

    def prepare_weight(self, role: WeightRole, tensor: Tensor) -> Weight:
        return Weight(role, tuple(tensor.shape), tensor.dtype, prepared(role, tensor))

    def allocate_cache(self, pages: int, page_size: int, width: int, dtype: torch.dtype) -> Cache:
        return Cache(pages, page_size, width, dtype, empty_pages(pages, page_size, width, dtype))

    # --- rows ---

    def embedding(self, ids: Tensor, table: Weight) -> Tensor:
        return values(table)[ids.long()]

    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        return (x.double() @ matrix(w)).to(out_dtype or x.dtype)

    def head_linear(self, x: Tensor, w: Weight) -> Tensor:
        return torch.einsum("thk,hkn->thn", x.double(), matrix(w)).to(x.dtype)

    def rms_norm(
        self, x: Tensor, w: Weight, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        h = x if residual is None else x + residual
        wide = h.double()
        root = (wide.square().mean(-1, keepdim=True) + eps).sqrt()
        return (wide / root * values(w)).to(x.dtype), h

    def layer_norm(self, x: Tensor, w: Weight, b: Weight, eps: float) -> Tensor:
        wide = x.double()
        gain, bias = values(w).double(), values(b).double()
        return torch.nn.functional.layer_norm(wide, wide.shape[-1:], gain, bias, eps).to(x.dtype)

    def rope(self, x: Tensor, positions: Tensor, table: Weight, interleaved: bool) -> Tensor:
        half = x.shape[-1] // 2
        row = values(table)[positions.long()].double()
        turn = torch.complex(row[:, :half], row[:, half:]).unsqueeze(1)
        wide = x.double()
        pairs = wide.unflatten(-1, (half, 2) if interleaved else (2, half))
        along = -1 if interleaved else -2
        turned = torch.complex(pairs.select(along, 0), pairs.select(along, 1)) * turn
        return torch.stack((turned.real, turned.imag), dim=along).flatten(-2).to(x.dtype)

    def swiglu(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.double().chunk(2, dim=-1)
        return (gate * torch.sigmoid(gate) * up).to(gate_up.dtype)

    # --- cache and attention ---

    def cache_write(self, cache: Cache, rows: Tensor, slots: Tensor) -> None:
        pages(cache).write(slots, rows)

    def cache_read(self, cache: Cache, slots: Tensor) -> Tensor:
        return pages(cache).read(slots)

    def latent_attention(
        self,
        q_latent: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        query = torch.cat((q_latent, q_rope), dim=-1).double()
        out = torch.empty_like(q_latent)
        for token in range(len(query)):
            rows = self._visible(cache, context, token)
            if indices is not None:
                chosen = indices[token]
                end = int((chosen < 0).long().argmax()) if (chosen < 0).any() else len(chosen)
                rows = rows[chosen[:end].long()]
            weights = torch.softmax(query[token] @ rows.T * scale, dim=-1)
            out[token] = (weights @ rows[:, : out.shape[-1]]).to(out.dtype)
        return out

    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        out = torch.full((len(q), context.max_length), -torch.inf)
        for token in range(len(q)):
            rows = self._visible(keys, context, token)
            dots = (q[token].double() @ rows.T).clamp(min=0)
            out[token, : len(rows)] = (w[token].double() * scale @ dots).float() + 0.0
        return out

    def _visible(self, cache: Cache, context: PagedContext, token: int) -> Tensor:
        """Rows that a token sees, float64, in order of position."""
        return pages(cache).read(context.slots(token, cache.page_size)).double()

    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        out = torch.full((len(scores), k), -1, dtype=torch.int32)
        for row, length in enumerate(lengths.tolist()):
            # a stable sort, NaN first, keeps equal scores in order of index
            ranked = torch.sort(scores[row, :length] + 0.0, descending=True, stable=True)
            best = ranked.indices[:k].sort().values
            out[row, : len(best)] = best
        return out

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
        scores = torch.sigmoid(logits.double()).float()
        choice = scores + values(bias)
        if n_group > 1:
            groups = choice.unflatten(1, (n_group, -1))
            best = self._first(groups.sort(-1, descending=True).values[..., :2].sum(-1), topk_group)
            outside = torch.ones(groups.shape[:2]).scatter(1, best, 0.0).bool()
            choice = groups.masked_fill(outside.unsqueeze(-1), -torch.inf).flatten(1)
        ids = self._first(choice, k)
        weights = scores.gather(1, ids).double()
        if normalize:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return ids.int(), (weights * scale).float()

    def _first(self, keys: Tensor, k: int) -> Tensor:
        ranked = torch.sort(keys, dim=-1, descending=True, stable=True).indices
        return ranked[:, :k].sort(-1).values

    def moe_dispatch(self, x: Tensor, ids: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
        slots = torch.sort(ids.flatten(), stable=True).indices
        offsets = torch.searchsorted(ids.flatten()[slots].contiguous(), torch.arange(experts + 1))
        return x[slots // ids.shape[1]], offsets.int(), slots.int()

    def moe_combine(
        self, rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None = None
    ) -> Tensor:
        by_slot = torch.empty(rows.shape, dtype=torch.float64)
        by_slot[slots.long()] = rows.double()
        out = torch.einsum("tkd,tk->td", by_slot.unflatten(0, weights.shape), weights.double())
        return (out if shared is None else out + shared.double()).to(rows.dtype)

    def grouped_linear(self, x: Tensor, w: Weight, offsets: Tensor) -> Tensor:
        matrices, bounds = matrix(w), offsets.tolist()
        parts = [
            x[start:stop].double() @ expert
            for start, stop, expert in zip(bounds[:-1], bounds[1:], matrices, strict=True)
        ]
        return torch.cat(parts).to(x.dtype)

    # --- the rest ---

    def muon_orthogonalize(self, g: Tensor, steps: int = 5) -> Tensor:
        a, b, c = 3.4445, -4.7750, 2.0315
        tall = g.shape[1] > g.shape[2]
        x = (g.mT if tall else g).double()
        x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-300)
        for _ in range(steps):
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
        found: Tensor = x.mT if tall else x
        return found.to(g.dtype)

    def sample(self, logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> Tensor:
        chosen = [
            self._one(row.double(), float(heat), float(limit), int(draw))
            for row, heat, limit, draw in zip(logits, temperature, top_p, draws, strict=True)
        ]
        return torch.tensor(chosen, dtype=torch.int32)

    def _one(self, row: Tensor, heat: float, limit: float, draw: int) -> int:
        ranked = torch.sort(row, descending=True, stable=True)
        if heat == 0:
            return int(ranked.indices[0])
        mass = torch.softmax(ranked.values / heat, 0).cumsum(0)
        before = torch.cat((mass.new_zeros(1), mass[:-1]))
        kept = max(int((before < limit).sum()), 1)
        target = (draw + 0.5) / 2**24 * mass[kept - 1]
        place = int((mass[:kept] <= target).sum())
        return int(ranked.indices[min(place, kept - 1)])
