"""The parameters of a model as its backend keeps them, and loading them from a checkpoint.

One pass over the checkpoint, one tensor at a time: each goes through the backend's
`prepare_weight` and the host copy is dropped, so memory stays at one copy of the model plus the
largest single weight. With several ranks H, I, E and V below are what this one holds of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from glm5_hal import Runtime, Weight, WeightRole
from glm5_hal.model.checkpoint import Checkpoint
from glm5_hal.model.config import ModelConfig
from glm5_hal.model.ranks import ALONE, Ranks, span
from glm5_hal.model.tensors import SCALE_SUFFIX, expected_tensors
from glm5_hal.rope_table import rope_table

Progress = Callable[[int, int], None]
"""Called with (bytes read, bytes in all)."""


@dataclass(frozen=True)
class Indexer:
    """DSA lightning indexer of a "full" layer."""

    wq_b: Weight  # [Hi * Di, q_lora]
    wk: Weight  # [Di, D]
    k_norm: Weight  # [Di]
    k_norm_bias: Weight  # [Di]
    weights: Weight  # [Hi, D], float32 out


@dataclass(frozen=True)
class Attention:
    """Multi-head latent attention."""

    q_a: Weight  # [q_lora, D]
    q_a_norm: Weight  # [q_lora]
    q_b: Weight  # [H * (N + R), q_lora]
    kv_a: Weight  # [C + R, D]
    kv_a_norm: Weight  # [C]
    w_uk: Weight  # [H, C, N], W_UK transposed
    w_uv: Weight  # [H, V, C]
    out: Weight  # [D, H * V]
    indexer: Indexer | None


@dataclass(frozen=True)
class Mlp:
    """Dense feed-forward block, or a shared expert."""

    gate_up: Weight  # [2 * I, D], gate rows first
    down: Weight  # [D, I]


@dataclass(frozen=True)
class Moe:
    """Routed experts with their router and the shared expert."""

    router: Weight  # [E, D], float32
    bias: Weight  # [E], float32
    gate_up: Weight  # [E, 2 * I, D]
    down: Weight  # [E, D, I]
    shared: Mlp


@dataclass(frozen=True)
class Layer:
    """One decoder layer."""

    input_norm: Weight
    attention: Attention
    post_norm: Weight
    mlp: Mlp | Moe


@dataclass(frozen=True)
class Mtp:
    """The multi-token-prediction layer; embedding and head are the main model's."""

    token_norm: Weight
    hidden_norm: Weight
    join: Weight  # [D, 2 * D], embedding half first
    layer: Layer
    head_norm: Weight


@dataclass(frozen=True)
class ModelWeights:
    """Everything that was trained, and the RoPE table."""

    embedding: Weight
    layers: tuple[Layer, ...]
    norm: Weight
    head: Weight
    rope: Weight
    mtp: Mtp | None


def load_weights(
    checkpoint: Checkpoint,
    runtime: Runtime,
    dtype: torch.dtype,
    *,
    positions: int,
    mtp: bool = True,
    ranks: Ranks = ALONE,
    progress: Progress | None = None,
) -> ModelWeights:
    """Read a checkpoint into a backend.

    Args:
        checkpoint: opened and validated.
        runtime: whose backend keeps the weights.
        dtype: activation dtype, bfloat16 or float32.
        positions: rows of the RoPE table, the longest sequence that will be run.
        mtp: take the MTP layer, where the checkpoint has one.
        ranks: among which the weights are split.
        progress: told after every tensor.
    """
    taken = mtp and checkpoint.has_mtp
    return _Loader(checkpoint, runtime, dtype, taken, ranks, progress).model(positions)


class _Loader:
    def __init__(
        self,
        checkpoint: Checkpoint,
        runtime: Runtime,
        dtype: torch.dtype,
        mtp: bool,
        ranks: Ranks,
        progress: Progress | None,
    ) -> None:
        self._checkpoint = checkpoint
        self._config: ModelConfig = checkpoint.config
        self._runtime = runtime
        self._dtype = dtype
        self._with_mtp = mtp
        self._ranks = ranks
        self._progress = progress
        self._read_bytes = 0
        # not what is stored in all: copies of embedding and head in the MTP layer are passed by
        wanted = expected_tensors(checkpoint.config, mtp)
        self._total_bytes = sum(self._stored_bytes(spec.name) for spec in wanted)

    def model(self, positions: int) -> ModelWeights:
        config = self._config
        layers = tuple(
            self._layer(f"model.layers.{i}.", config.is_full(i), config.is_sparse(i))
            for i in range(config.num_hidden_layers)
        )
        table = rope_table(config.rope_theta, config.qk_rope_head_dim, positions)
        return ModelWeights(
            embedding=self._one(WeightRole.EMBEDDING, "model.embed_tokens.weight"),
            layers=layers,
            norm=self._vector("model.norm.weight"),
            head=self._rows("lm_head.weight", config.vocab_size),
            rope=self._runtime.prepare_weight(WeightRole.ROPE_TABLE, table),
            mtp=self._mtp() if self._with_mtp else None,
        )

    def _mtp(self) -> Mtp:
        prefix = f"model.layers.{self._config.mtp_layer}."
        return Mtp(
            token_norm=self._vector(f"{prefix}enorm.weight"),
            hidden_norm=self._vector(f"{prefix}hnorm.weight"),
            join=self._linear(f"{prefix}eh_proj.weight"),
            layer=self._layer(prefix, full=True, sparse=True),
            head_norm=self._vector(f"{prefix}shared_head.norm.weight"),
        )

    def _layer(self, prefix: str, full: bool, sparse: bool) -> Layer:
        return Layer(
            input_norm=self._vector(f"{prefix}input_layernorm.weight"),
            attention=self._attention(f"{prefix}self_attn.", full),
            post_norm=self._vector(f"{prefix}post_attention_layernorm.weight"),
            mlp=self._moe(f"{prefix}mlp.") if sparse else self._mlp(f"{prefix}mlp."),
        )

    def _attention(self, prefix: str, full: bool) -> Attention:
        config = self._config
        kv_b = self._read(f"{prefix}kv_b_proj.weight").unflatten(
            0, (config.num_attention_heads, config.qk_nope_head_dim + config.v_head_dim)
        )
        heads = config.num_attention_heads
        mine = span(heads, self._ranks)
        w_uk, w_uv = kv_b[mine].split((config.qk_nope_head_dim, config.v_head_dim), dim=1)
        return Attention(
            q_a=self._linear(f"{prefix}q_a_proj.weight"),
            q_a_norm=self._vector(f"{prefix}q_a_layernorm.weight"),
            q_b=self._rows(f"{prefix}q_b_proj.weight", heads),
            kv_a=self._linear(f"{prefix}kv_a_proj_with_mqa.weight"),
            kv_a_norm=self._vector(f"{prefix}kv_a_layernorm.weight"),
            w_uk=self._prepare(WeightRole.HEAD_LINEAR, w_uk.mT),
            w_uv=self._prepare(WeightRole.HEAD_LINEAR, w_uv),
            out=self._columns(f"{prefix}o_proj.weight", heads),
            indexer=self._indexer(f"{prefix}indexer.") if full else None,
        )

    def _indexer(self, prefix: str) -> Indexer:
        return Indexer(
            wq_b=self._linear(f"{prefix}wq_b.weight"),
            wk=self._linear(f"{prefix}wk.weight"),
            k_norm=self._vector(f"{prefix}k_norm.weight"),
            k_norm_bias=self._vector(f"{prefix}k_norm.bias"),
            weights=self._float_linear(f"{prefix}weights_proj.weight"),
        )

    def _mlp(self, prefix: str) -> Mlp:
        gate, up = (self._read(f"{prefix}{part}_proj.weight") for part in ("gate", "up"))
        width = gate.shape[0]
        mine = span(width, self._ranks)
        return Mlp(
            gate_up=self._prepare(WeightRole.LINEAR, torch.cat((gate[mine], up[mine]))),
            down=self._columns(f"{prefix}down_proj.weight", width),
        )

    def _moe(self, prefix: str) -> Moe:
        gate_up, down = self._experts(f"{prefix}experts.")
        return Moe(
            router=self._float_linear(f"{prefix}gate.weight"),
            bias=self._vector(f"{prefix}gate.e_score_correction_bias"),
            gate_up=gate_up,
            down=down,
            shared=self._mlp(f"{prefix}shared_experts."),
        )

    def _experts(self, prefix: str) -> tuple[Weight, Weight]:
        config = self._config
        width = config.moe_intermediate_size
        mine = span(config.n_routed_experts, self._ranks)
        experts = range(mine.start, mine.stop)
        gate_up = torch.empty(len(experts), 2 * width, config.hidden_size, dtype=self._dtype)
        for row, e in enumerate(experts):
            gate_up[row, :width] = self._read(f"{prefix}{e}.gate_proj.weight")
            gate_up[row, width:] = self._read(f"{prefix}{e}.up_proj.weight")
        prepared = self._prepare(WeightRole.EXPERTS, gate_up)
        del gate_up
        down = torch.empty(len(experts), config.hidden_size, width, dtype=self._dtype)
        for row, e in enumerate(experts):
            down[row] = self._read(f"{prefix}{e}.down_proj.weight")
        return prepared, self._prepare(WeightRole.EXPERTS, down)

    def _linear(self, name: str) -> Weight:
        return self._one(WeightRole.LINEAR, name)

    def _rows(self, name: str, parts: int) -> Weight:
        """A projection whose rows are `parts` equal pieces, spread over the ranks."""
        tensor = self._read(name)
        mine = span(parts, self._ranks)
        size = tensor.shape[0] // parts
        return self._prepare(WeightRole.LINEAR, tensor[mine.start * size : mine.stop * size])

    def _columns(self, name: str, parts: int) -> Weight:
        """A projection whose columns are `parts` equal pieces, spread over the ranks."""
        if self._ranks.size == 1:
            return self._linear(name)
        tensor = self._read(name)
        mine = span(parts, self._ranks)
        size = tensor.shape[1] // parts
        return self._runtime.prepare_shard(tensor, mine.start * size, mine.stop * size)

    def _float_linear(self, name: str) -> Weight:
        """A projection whose result is wanted in float32: the router's and the indexer's."""
        return self._prepare(WeightRole.LINEAR, self._read(name, torch.float32))

    def _vector(self, name: str) -> Weight:
        return self._prepare(WeightRole.VECTOR, self._read(name, torch.float32))

    def _one(self, role: WeightRole, name: str) -> Weight:
        return self._prepare(role, self._read(name))

    def _prepare(self, role: WeightRole, tensor: Tensor) -> Weight:
        return self._runtime.prepare_weight(role, tensor)

    def _read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        tensor = self._checkpoint.read(name, dtype or self._dtype)
        if self._progress is not None:
            self._read_bytes += self._stored_bytes(name)
            self._progress(self._read_bytes, self._total_bytes)
        return tensor

    def _stored_bytes(self, name: str) -> int:
        """Bytes on disk of a tensor and, where it is quantised, of its scales."""
        stored = self._checkpoint.tensors
        return sum(stored[part].nbytes for part in (name, name + SCALE_SUFFIX) if part in stored)
