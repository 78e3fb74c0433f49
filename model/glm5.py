"""GLM-5, written once against the op contract.

Arithmetic happens in `ops`; everything else here is views, slices and concatenation. Tokens are
packed: T tokens of any number of sequences, prefill and decode alike. Sources: GLM-5 report
(2602.15763) section 2, DeepSeek-V2 (MLA), DeepSeek-V3 (router, MTP), DeepSeek-V3.2 (DSA).

Symbols: T tokens, D hidden size, H heads, N and R the unrotated and rotated width of a query
head, C the latent width, V the value width, Hi and Di the indexer's heads and their width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from glm5_hal import Runtime, ops
from glm5_hal.model.config import ModelConfig
from glm5_hal.model.kv_cache import KVCache, LayerCache, Step
from glm5_hal.model.ranks import ALONE, Ranks, row_linear, span, spans
from glm5_hal.model.weights import Attention, Indexer, Layer, Mlp, ModelWeights, Moe
from glm5_hal.place import place

INDEXER_NORM_EPS = 1e-6

Probe = Callable[[str, Tensor], None]
"""Told the name and value of intermediates, such as ``layer0.attn_out``."""


@dataclass(frozen=True)
class Options:
    """What the published configuration leaves open.

    Attributes:
        mla_form: ``absorbed`` attends to latent rows as they lie in the cache; ``expanded`` to
            keys and values per head (an optional op).
        mtp_feedback: which output of the MTP layer its next draft step takes as hidden state:
            ``normed`` (after shared_head.norm, as SGLang) or ``block`` (before it, as vLLM).
    """

    mla_form: Literal["absorbed", "expanded"] = "absorbed"
    mtp_feedback: Literal["normed", "block"] = "normed"


@dataclass(frozen=True)
class Draft:
    """What one pass of the MTP layer gives.

    Attributes:
        hidden: [T, D], normed for the head.
        feedback: [T, D], hidden state for the next draft step.
        selected: [T, k] int32, positions that the attention looked at.
    """

    hidden: Tensor
    feedback: Tensor
    selected: Tensor


class GLM5:
    """The model on one backend.

    Args:
        config: hyper-parameters.
        weights: as the runtime's backend keeps them.
        runtime: answers the op calls.
        options: see `Options`.
        dtype: activation dtype.
        ranks: among which the weights are split.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: ModelWeights,
        runtime: Runtime,
        *,
        dtype: torch.dtype,
        options: Options | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config = config
        self.weights = weights
        self.runtime = runtime
        self.dtype = dtype
        self.options = options or Options()
        self.ranks = ranks

    def forward(self, step: Step, cache: KVCache, probe: Probe | None = None) -> Tensor:
        """Run the layers over the step's tokens, [T, D] normed for the head.

        Cache rows of the tokens are written; `probe` sees intermediates by name.
        """
        w, eps = self.weights, self.config.rms_norm_eps
        see = probe or _unseen
        next_norms = (*(layer.input_norm for layer in w.layers[1:]), w.norm)
        selected: Tensor | None = None
        with self.runtime:
            h = ops.embedding(step.ids, w.embedding)  # [T, D]
            see("embed", h)
            x, h = ops.rms_norm(h, w.layers[0].input_norm, eps)
            for i, layer in enumerate(w.layers):
                with place(f"layer{i}"):
                    delta, h, selected = self._layer(
                        layer, cache.layers[i], x, h, selected, step, _named(see, f"layer{i}.")
                    )
                    x, h = ops.rms_norm(delta, next_norms[i], eps, h)
                see(f"layer{i}.out", h)
            see("final_norm", x)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [T, vocabulary] float32 of normed hidden states [T, D]."""
        with self.runtime:
            logits = ops.linear(hidden, self.weights.head, torch.float32)
        if self.ranks.size == 1:
            return logits
        counts = [part.stop - part.start for part in spans(self.config.vocab_size, self.ranks)]
        return self.ranks.joined(logits.mT.contiguous(), counts).mT.contiguous()

    def draft(
        self,
        step: Step,
        hidden: Tensor,
        cache: KVCache,
        selected: Tensor | None = None,
    ) -> Draft:
        """Run the MTP layer.

        Args:
            step: at position p, the id of token p + 1.
            hidden: [T, D], the hidden state of position p: the main model's normed output, or the
                `feedback` of an earlier draft step.
            cache: holds the MTP layer's rows.
            selected: positions to attend to, instead of asking the layer's indexer.
        """
        w = self.weights.mtp
        if w is None or cache.mtp is None:
            raise ValueError("this checkpoint has no MTP layer, or the cache was made without one")
        eps = self.config.rms_norm_eps
        with self.runtime, place("mtp"):
            token, _ = ops.rms_norm(
                ops.embedding(step.ids, self.weights.embedding), w.token_norm, eps
            )
            state, _ = ops.rms_norm(hidden, w.hidden_norm, eps)
            x, h = ops.rms_norm(
                ops.linear(torch.cat((token, state), dim=-1), w.join), w.layer.input_norm, eps
            )
            delta, h, chosen = self._layer(
                w.layer, cache.mtp, x, h, selected, step, _unseen, reuse=selected is not None
            )
            normed, block = ops.rms_norm(delta, w.head_norm, eps, h)
        feedback = normed if self.options.mtp_feedback == "normed" else block
        return Draft(normed, feedback, chosen)

    def _layer(
        self,
        w: Layer,
        pages: LayerCache,
        x: Tensor,
        h: Tensor,
        selected: Tensor | None,
        step: Step,
        see: Probe,
        reuse: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One decoder layer on normed rows x and residual stream h, each [T, D].

        Returns (output of the MLP, not yet added; residual stream; selection). `reuse` keeps the
        given selection although the layer has an indexer of its own.
        """
        see("input_layernorm", x)
        attended, selected = self._attention(w.attention, pages, x, selected, step, see, reuse)
        see("attn_out", attended)
        x, h = ops.rms_norm(attended, w.post_norm, self.config.rms_norm_eps, h)
        see("post_attention_layernorm", x)
        out = self._moe(w.mlp, x, see) if isinstance(w.mlp, Moe) else self._mlp(w.mlp, x)
        see("mlp_out", out)
        return out, h, selected

    def _attention(
        self,
        w: Attention,
        pages: LayerCache,
        x: Tensor,
        selected: Tensor | None,
        step: Step,
        see: Probe,
        reuse: bool,
    ) -> tuple[Tensor, Tensor]:
        """MLA over the selected positions: ([T, D], [T, k])."""
        config = self.config
        eps, latent = config.latent_norm_eps, config.kv_lora_rank

        q_latent, _ = ops.rms_norm(ops.linear(x, w.q_a), w.q_a_norm, eps)
        see("q_a_layernorm", q_latent)
        kv = ops.linear(x, w.kv_a)  # [T, C + R]
        content, _ = ops.rms_norm(kv[:, :latent], w.kv_a_norm, eps)
        see("kv_a_layernorm", content)
        k_rope = self._rope(kv[:, None, latent:], step, config.rope_interleave)[:, 0]
        ops.cache_write(pages.latent, torch.cat((content, k_rope), dim=-1), step.slots)

        if w.indexer is not None:
            own = self._select(w.indexer, pages, x, q_latent, step, see, score=not reuse)
            selected = selected if own is None else own
        if selected is None:
            raise ValueError('a "shared" layer needs the selection of a "full" layer before it')
        see("topk_indices", selected)
        values = self._attend(w, pages, q_latent, selected, step)  # [T, H * V]
        return row_linear(values, w.out, self.ranks), selected

    def _attend(
        self, w: Attention, pages: LayerCache, q_latent: Tensor, selected: Tensor, step: Step
    ) -> Tensor:
        """The heads of this rank, [T, H * V]."""
        config, nope = self.config, self.config.qk_nope_head_dim
        heads = w.w_uk.shape[0]
        if not heads:
            return q_latent.new_empty(q_latent.shape[0], 0)
        q = ops.linear(q_latent, w.q_b).unflatten(1, (heads, -1))
        q_rope = self._rope(q[..., nope:], step, config.rope_interleave)  # [T, H, R]
        attend = ops.mla if self.options.mla_form == "absorbed" else ops.mla_expanded
        out = attend(
            q[..., :nope],
            q_rope,
            pages.latent,
            step.context,
            w.w_uk,
            w.w_uv,
            config.qk_head_dim**-0.5,
            selected,
        )
        return out.flatten(1)

    def _select(
        self,
        w: Indexer,
        pages: LayerCache,
        x: Tensor,
        q_latent: Tensor,
        step: Step,
        see: Probe,
        score: bool,
    ) -> Tensor | None:
        """Store the index keys and choose each token's positions, [T, k]; None without scoring."""
        config = self.config
        if pages.index_keys is None:
            raise ValueError("this cache has no index keys for a layer with an indexer")
        k = ops.layer_norm(ops.linear(x, w.wk), w.k_norm, w.k_norm_bias, INDEXER_NORM_EPS)
        see("indexer_k_norm", k)
        keys = self._index_rope(k.unsqueeze(1), step).squeeze(1)  # [T, Di]
        ops.cache_write(pages.index_keys, keys, step.slots)
        if not score:
            return None
        heads = config.index_n_heads
        q = self._index_rope(ops.linear(q_latent, w.wq_b).unflatten(1, (heads, -1)), step)
        weights = ops.linear(x, w.weights, torch.float32)  # [T, Hi]
        see("indexer_weights_raw", weights)
        scale = heads**-0.5 * config.index_head_dim**-0.5
        if see is not _unseen:
            scores = ops.index_scores(q, weights, pages.index_keys, step.context, scale)
            see("index_scores_masked", scores)
        return ops.dsa_select(q, weights, pages.index_keys, step.context, scale, config.index_topk)

    def _index_rope(self, x: Tensor, step: Step) -> Tensor:
        """Turn the first R of the Di values: the indexer's order is opposite to the attention's."""
        width = self.config.qk_rope_head_dim
        turned = self._rope(x[..., :width], step, self.config.indexer_rope_interleave)
        return torch.cat((turned, x[..., width:]), dim=-1)

    def _rope(self, x: Tensor, step: Step, interleaved: bool) -> Tensor:
        return ops.rope(x, step.positions, self.weights.rope, interleaved)

    def _moe(self, w: Moe, x: Tensor, see: Probe) -> Tensor:
        config = self.config
        logits = ops.linear(x, w.router, torch.float32)
        ids, weights = ops.moe_route(
            logits,
            w.bias,
            config.num_experts_per_tok,
            config.n_group,
            config.topk_group,
            config.norm_topk_prob,
            config.routed_scaling_factor,
        )
        see("router_logits", logits)
        see("router_indices", ids)
        see("router_weights", weights)
        shared = self._mlp(w.shared, x)
        if self.ranks.size == 1:
            return ops.moe_experts(x, ids, weights, w.gate_up, w.down, shared)
        return self._spread_experts(w, x, ids, weights, shared)

    def _spread_experts(
        self, w: Moe, x: Tensor, ids: Tensor, weights: Tensor, shared: Tensor
    ) -> Tensor:
        """moe_experts with the experts on several ranks; each token is combined by every rank."""
        rows, offsets, slots = ops.moe_dispatch(x, ids, self.config.n_routed_experts)
        starts = offsets.tolist()
        held = spans(self.config.n_routed_experts, self.ranks)
        counts = [starts[part.stop] - starts[part.start] for part in held]
        mine = span(self.config.n_routed_experts, self.ranks)
        own = rows[starts[mine.start] : starts[mine.stop]]
        if own.shape[0]:
            local = offsets[mine.start : mine.stop + 1] - offsets[mine.start]
            hidden = ops.swiglu(ops.grouped_linear(own, w.gate_up, local))
            own = ops.grouped_linear(hidden, w.down, local)
        return ops.moe_combine(self.ranks.joined(own, counts), slots, weights, shared)

    def _mlp(self, w: Mlp, x: Tensor) -> Tensor:
        """SwiGLU feed-forward block."""
        if w.gate_up.shape[0]:
            hidden = ops.swiglu(ops.linear(x, w.gate_up))
        else:  # all of it lies on other ranks
            hidden = x.new_empty(x.shape[0], 0)
        return row_linear(hidden, w.down, self.ranks)


def _unseen(name: str, value: Tensor) -> None:
    """The probe of a run that nobody watches."""


def _named(see: Probe, prefix: str) -> Probe:
    if see is _unseen:
        return see
    return lambda name, value: see(prefix + name, value)
