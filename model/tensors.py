"""The one table of published tensor names: what a GLM-5 checkpoint holds, with shapes.

Everything that names a stored tensor asks here: the reader, the random writer, the count of
parameters. Shapes are `torch.nn.Linear`'s, [out, in].
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glm5_hal.model.config import ModelConfig

FP8_BLOCK = 128
"""Rows and columns of a matrix that share one scale in an FP8 checkpoint."""

SCALE_SUFFIX = "_scale_inv"
"""Added to a quantised matrix's name; the published FP8 tensors are W = fp8 * scale."""

Kind = Literal["matrix", "plain", "fp32"]
"""How a tensor is stored: "matrix" is quantised in an FP8 checkpoint, "plain" never is,
"fp32" is float32 in every checkpoint."""

Component = Literal[
    "embedding",
    "mla",
    "indexer",
    "dense_mlp",
    "routed_experts",
    "shared_experts",
    "router",
    "layer_norms",
    "final_norm",
    "head",
    "mtp",
]
"""The part of the model that a tensor belongs to, as parameter tables are drawn."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a checkpoint: its published name, its shape, how it is stored, its part."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    component: Component

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def scale(self) -> TensorSpec:
        """The fp32 scales that stand beside this matrix in an FP8 checkpoint, one a block."""
        blocks = tuple(-(-size // FP8_BLOCK) for size in self.shape)
        return TensorSpec(self.name + SCALE_SUFFIX, blocks, "fp32", self.component)


def expected_tensors(config: ModelConfig, mtp: bool) -> Iterator[TensorSpec]:
    """Every tensor of an unquantised checkpoint, in model order, with or without the MTP layer."""
    vocab = (config.vocab_size, config.hidden_size)
    yield TensorSpec("model.embed_tokens.weight", vocab, "plain", "embedding")
    for layer in range(config.num_hidden_layers):
        yield from layer_tensors(config, layer)
    yield TensorSpec("model.norm.weight", (config.hidden_size,), "plain", "final_norm")
    yield TensorSpec("lm_head.weight", vocab, "plain", "head")
    if mtp:
        yield from mtp_tensors(config)


def layer_tensors(config: ModelConfig, layer: int) -> Iterator[TensorSpec]:
    """The tensors of one decoder layer: its norms, its attention, its MLP."""
    prefix = f"model.layers.{layer}."
    for norm in ("input_layernorm", "post_attention_layernorm"):
        yield TensorSpec(f"{prefix}{norm}.weight", (config.hidden_size,), "plain", "layer_norms")
    yield from _attention(config, f"{prefix}self_attn.")
    if config.is_full(layer):
        yield from _indexer(config, f"{prefix}self_attn.indexer.")
    if config.is_sparse(layer):
        yield from _experts(config, f"{prefix}mlp.")
    else:
        yield from _mlp(config, f"{prefix}mlp.", config.intermediate_size, "dense_mlp")


def mtp_tensors(config: ModelConfig) -> Iterator[TensorSpec]:
    """The multi-token-prediction layer: a decoder layer, the projection before it, its norms.

    The projection reads [embedding, hidden state]; embedding and head are the main model's.
    """
    prefix, hidden = f"model.layers.{config.mtp_layer}.", config.hidden_size
    for norm in ("enorm", "hnorm", "shared_head.norm"):
        yield TensorSpec(f"{prefix}{norm}.weight", (hidden,), "plain", "mtp")
    yield TensorSpec(f"{prefix}eh_proj.weight", (hidden, 2 * hidden), "plain", "mtp")
    for spec in layer_tensors(config, config.mtp_layer):
        yield TensorSpec(spec.name, spec.shape, spec.kind, "mtp")


def mtp_duplicates(config: ModelConfig) -> Iterator[TensorSpec]:
    """Copies of the embedding and the head that some checkpoints hold in the MTP layer."""
    for name in ("embed_tokens", "shared_head.head"):
        yield TensorSpec(
            f"model.layers.{config.mtp_layer}.{name}.weight",
            (config.vocab_size, config.hidden_size),
            "plain",
            "mtp",
        )


def _attention(config: ModelConfig, prefix: str) -> Iterator[TensorSpec]:
    heads, hidden = config.num_attention_heads, config.hidden_size
    q_rank, kv_rank = config.q_lora_rank, config.kv_lora_rank
    nope, rope, value = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
    for name, shape in {
        "q_a_proj": (q_rank, hidden),
        "q_b_proj": (heads * (nope + rope), q_rank),
        "kv_a_proj_with_mqa": (kv_rank + rope, hidden),
        "kv_b_proj": (heads * (nope + value), kv_rank),
        "o_proj": (hidden, heads * value),
    }.items():
        yield TensorSpec(f"{prefix}{name}.weight", shape, "matrix", "mla")
    yield TensorSpec(f"{prefix}q_a_layernorm.weight", (q_rank,), "plain", "mla")
    yield TensorSpec(f"{prefix}kv_a_layernorm.weight", (kv_rank,), "plain", "mla")


def _indexer(config: ModelConfig, prefix: str) -> Iterator[TensorSpec]:
    heads, head, hidden = config.index_n_heads, config.index_head_dim, config.hidden_size
    yield TensorSpec(
        f"{prefix}wq_b.weight", (heads * head, config.q_lora_rank), "matrix", "indexer"
    )
    yield TensorSpec(f"{prefix}wk.weight", (head, hidden), "matrix", "indexer")
    yield TensorSpec(f"{prefix}weights_proj.weight", (heads, hidden), "plain", "indexer")
    yield TensorSpec(f"{prefix}k_norm.weight", (head,), "plain", "indexer")
    yield TensorSpec(f"{prefix}k_norm.bias", (head,), "plain", "indexer")


def _experts(config: ModelConfig, prefix: str) -> Iterator[TensorSpec]:
    experts, width = config.n_routed_experts, config.moe_intermediate_size
    yield TensorSpec(f"{prefix}gate.weight", (experts, config.hidden_size), "plain", "router")
    yield TensorSpec(f"{prefix}gate.e_score_correction_bias", (experts,), "fp32", "router")
    for expert in range(experts):
        yield from _mlp(config, f"{prefix}experts.{expert}.", width, "routed_experts")
    shared = width * config.n_shared_experts
    yield from _mlp(config, f"{prefix}shared_experts.", shared, "shared_experts")


def _mlp(
    config: ModelConfig, prefix: str, width: int, component: Component
) -> Iterator[TensorSpec]:
    for name in ("gate_proj", "up_proj"):
        shape = (width, config.hidden_size)
        yield TensorSpec(f"{prefix}{name}.weight", shape, "matrix", component)
    yield TensorSpec(f"{prefix}down_proj.weight", (config.hidden_size, width), "matrix", component)
