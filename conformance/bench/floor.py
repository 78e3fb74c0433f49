"""The least that one pass of a whole model must do, part by part, from its configuration.

T tokens of one sequence follow `past` cached ones. Products only, a multiply-add is two operations:

- linears: two operations a parameter and token, of the routed experts the chosen ones; W_UK and
  W_UV absorbed; the head for the last token alone.
- attention: min(visible, index_topk) rows a token, 2 (C + R) + 2 C operations a head and row.
- index scores: every visible row, 2 Di operations an index head, in layers with an indexer.

Bytes are those that must be touched once: weights (of the routed experts the expected number of
different ones, were routing uniform), the cache rows that are read, and those that are written.
Sources: DeepSeek-V2 (2405.04434) section 2.1; DeepSeek-V3.2 report, equation 1; GLM-5 (2602.15763)
section 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from glm5_hal.conformance.bench.peaks import Peaks
from glm5_hal.conformance.bench.work import Work
from glm5_hal.model.config import ModelConfig

LINEARS, ATTENTION, SCORES = "linears", "attention", "index scores"


@dataclass(frozen=True)
class Floor:
    """Of one pass.

    Attributes:
        parts: work by part; they follow each other, so that their times add up.
    """

    parts: Mapping[str, Work]

    def seconds(self, peaks: Peaks) -> float:
        """The shortest time."""
        return sum(part.seconds(peaks) for part in self.parts.values())

    @property
    def flop(self) -> int:
        """Operations of all parts."""
        return sum(part.flop for part in self.parts.values())

    @property
    def bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.bytes for part in self.parts.values())

    def to_dict(self, peaks: Peaks) -> dict[str, object]:
        """Plain data, for JSON."""
        parts = {name: {**vars(w), "seconds": w.seconds(peaks)} for name, w in self.parts.items()}
        return {"parts": parts, "seconds": self.seconds(peaks)}


def prefill(config: ModelConfig, tokens: int, item: int) -> Floor:
    """A prompt of `tokens`, in one pass; `item` bytes a value."""
    return passed(config, tokens, 0, item)


def decode(config: ModelConfig, past: int, item: int) -> Floor:
    """One token after `past` others; `item` bytes a value."""
    return passed(config, 1, past, item)


def passed(config: ModelConfig, tokens: int, past: int, item: int) -> Floor:
    """One pass of `tokens` tokens behind `past` cached ones."""
    layers, full = config.num_hidden_layers, _full_layers(config)
    latent = config.kv_lora_rank + config.qk_rope_head_dim
    selected = _pairs(tokens, past, config.index_topk)
    pair = config.num_attention_heads * 2 * (latent + config.kv_lora_rank)
    rows = min(past + tokens, selected)  # the different rows that are read, at most
    scored = _pairs(tokens, past, past + tokens)
    scoring = config.index_n_heads * 2 * config.index_head_dim
    seen = (past + tokens) * config.index_head_dim * item
    return Floor(
        {
            LINEARS: _linears(config, tokens, item),
            ATTENTION: Work(layers * selected * pair, layers * (rows + tokens) * latent * item),
            SCORES: Work(full * scored * scoring, full * seen),
        }
    )


def _pairs(tokens: int, past: int, most: int) -> int:
    """Sum over the tokens of min(visible rows, most); the first one sees past + 1."""
    growing = max(0, min(tokens, most - past))  # tokens that see no more than `most`
    return growing * past + growing * (growing + 1) // 2 + (tokens - growing) * most


def _full_layers(config: ModelConfig) -> int:
    return sum(map(config.is_full, range(config.num_hidden_layers)))


def _linears(config: ModelConfig, tokens: int, item: int) -> Work:
    sparse = sum(map(config.is_sparse, range(config.num_hidden_layers)))
    dense = config.num_hidden_layers - sparse
    expert = 3 * config.hidden_size * config.moe_intermediate_size
    every = (
        config.num_hidden_layers * _attention_parameters(config)
        + _full_layers(config) * _indexer_parameters(config)
        + dense * 3 * config.hidden_size * config.intermediate_size
        + sparse * config.n_shared_experts * expert
        + sparse * config.n_routed_experts * config.hidden_size
    )
    head = config.vocab_size * config.hidden_size
    chosen = sparse * config.num_experts_per_tok * expert
    touched = sparse * expert * _experts_touched(config, tokens)
    embedded = tokens * config.hidden_size
    return Work(
        2 * (tokens * (every + chosen) + head),
        round((every + head + touched + embedded) * item),
    )


def _experts_touched(config: ModelConfig, tokens: int) -> float:
    """Different routed experts of a layer that any of the tokens chooses, expected."""
    missed = (1 - config.num_experts_per_tok / config.n_routed_experts) ** tokens
    return config.n_routed_experts * (1 - missed)


def _attention_parameters(config: ModelConfig) -> int:
    hidden, heads = config.hidden_size, config.num_attention_heads
    return (
        config.q_lora_rank * hidden
        + heads * (config.qk_nope_head_dim + config.qk_rope_head_dim) * config.q_lora_rank
        + (config.kv_lora_rank + config.qk_rope_head_dim) * hidden
        + heads * config.kv_lora_rank * (config.qk_nope_head_dim + config.v_head_dim)
        + hidden * heads * config.v_head_dim
    )


def _indexer_parameters(config: ModelConfig) -> int:
    heads, width = config.index_n_heads, config.index_head_dim
    return heads * width * config.q_lora_rank + (width + heads) * config.hidden_size
