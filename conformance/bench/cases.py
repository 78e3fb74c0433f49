"""The op calls that are timed: every op of the contract at the shapes of a model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from glm5_hal.conformance.bench.plain_torch import EXPRESSIONS
from glm5_hal.conformance.call import Call
from glm5_hal.conformance.errors import AskedError
from glm5_hal.conformance.shapes import Shape, symbols
from glm5_hal.conformance.subjects import BUILDERS, Variant
from glm5_hal.contract import OPS, Op
from glm5_hal.model.config import ModelConfig
from glm5_hal.model.kv_cache import PAGE_SIZE

ROWS = (1, 4, 16, 64, 256, 1024, 4096)
"""Rows of a linear: from a decode step of one sequence to a prefill."""
FEW, SOME, MANY = 1, 64, 512
"""Tokens: a decode step, a batch of them, a piece of a prompt."""
SHORT, LONG = 4096, 131072
"""Cached rows; a model whose longest sequence is shorter has that."""
SQUARE = 4096
"""Of the product that is also measured as M = N = K, where a model is that wide."""
EXPERT_BYTES = 1 << 30
"""More experts than fit into it are not timed together; they are alike."""
_FEWEST_EXPERTS = 16
_BLOCK = 4_194_301  # a prime, so that rows of a repeated block differ


class _Drawn(Variant):
    """A variant whose large tensors are drawn fast: these values are timed, not compared."""

    def values(self, part: str, *shape: int) -> Tensor:
        return _draw(shape).to(self.torch_dtype)

    def plain(self, part: str, *shape: int, scale: float = 1.0) -> Tensor:
        return _draw(shape).mul_(scale).to(self.torch_dtype)

    def float32(self, part: str, *shape: int, scale: float = 1.0) -> Tensor:
        return _draw(shape).mul_(scale)


def _draw(shape: Sequence[int]) -> Tensor:
    size = torch.Size(shape).numel()
    block = torch.randn(min(size, _BLOCK), generator=torch.Generator().manual_seed(1))
    return block.repeat(-(-size // max(1, len(block))))[:size].reshape(tuple(shape))


@dataclass(frozen=True)
class OpCase:
    """One op at one shape.

    Attributes:
        op: name of the op.
        sizes: by the contract's symbols, as in `conformance.shapes`.
        expression: a further expression of `plain_torch.EXPRESSIONS`, in the place of the op's.
    """

    op: str
    sizes: Mapping[str, int] = field(hash=False)  # equal ones have equal ops
    expression: str = ""

    @property
    def id(self) -> str:
        """Op, shape and, where it is not the op's own, the expression."""
        against = f"/{self.expression}" if self.expression else ""
        return f"{self.op}/{self.shape.label}{against}"

    @property
    def shape(self) -> Shape:
        """The sizes in the order of the suite's case ids."""
        return Shape({symbol: self.sizes[symbol] for symbol in symbols(self.op)})

    @property
    def spec(self) -> Op[..., Any]:
        """The op."""
        return OPS[self.op]

    def call(self, dtype: str) -> Call:
        """The call in ``fp32`` or ``bf16``, with host values."""
        drawn = _Drawn(self.op, self.shape, dtype=dtype)
        if self.op == "topk":  # whole rows: those of torch know no lengths
            rows, width = self.sizes["T"], self.sizes["S"]
            arguments = {
                "scores": drawn.float32("scores", rows, width),
                "lengths": torch.full((rows,), width, dtype=torch.int32),
                "k": self.sizes["k"],
            }
            return Call("topk", arguments)
        return BUILDERS[self.op](drawn)


def chosen(configs: Sequence[ModelConfig], ops: Sequence[str] = ()) -> list[OpCase]:
    """The cases of some models, each once; of some ops, where these are named.

    Raises:
        AskedError: an op that does not exist.
    """
    if unknown := [name for name in ops if name not in OPS]:
        raise AskedError(
            f"no op is called {', '.join(unknown)}; there are {', '.join(sorted(OPS))}"
        )
    found: dict[str, OpCase] = {}
    for config in configs:
        for case in cases(config):
            if not ops or case.op in ops:
                found.setdefault(case.id, case)
    return list(found.values())


def cases(config: ModelConfig) -> Iterator[OpCase]:
    """Every op at a model's shapes."""
    for part in (_rows, _attention, _selection, _experts, _rest):
        yield from part(config)


def _linears(config: ModelConfig) -> Iterator[OpCase]:
    hidden, values = config.hidden_size, config.num_attention_heads * config.v_head_dim
    for rows in ROWS:
        yield OpCase("linear", {"T": rows, "K": hidden, "N": config.q_lora_rank})
    for rows in (FEW, SOME, ROWS[-1]):
        yield OpCase("linear", {"T": rows, "K": values, "N": hidden})
    if hidden >= SQUARE:
        yield OpCase("linear", {"T": SQUARE, "K": SQUARE, "N": SQUARE})


def _rows(config: ModelConfig) -> Iterator[OpCase]:
    hidden, heads = config.hidden_size, config.num_attention_heads
    latent, turned = config.kv_lora_rank, config.qk_rope_head_dim
    longest = config.max_position_embeddings
    yield OpCase("embedding", {"T": MANY, "V": config.vocab_size, "D": hidden})
    yield from _linears(config)
    for tokens in (FEW, MANY):
        absorbed = {"T": tokens, "H": heads, "K": config.qk_nope_head_dim, "N": latent}
        yield OpCase("head_linear", absorbed)
        yield OpCase("rms_norm", {"T": tokens, "D": hidden})
        yield OpCase("layer_norm", {"T": tokens, "D": config.index_head_dim})
        yield OpCase("rope", {"T": tokens, "H": heads, "R": turned, "P": longest})
        yield OpCase("swiglu", {"T": tokens, "I": config.moe_intermediate_size})
    pages = {"W": latent + turned, "pages": min(SHORT, longest) // PAGE_SIZE, "page": PAGE_SIZE}
    yield OpCase("cache_write", {"T": min(MANY, longest // 2), **pages})
    yield OpCase("cache_read", {"N": min(MANY, longest // 2), **pages})


def _attention(config: ModelConfig) -> Iterator[OpCase]:
    longest = config.max_position_embeddings
    sizes = {
        "H": config.num_attention_heads,
        "C": config.kv_lora_rank,
        "R": config.qk_rope_head_dim,
        "k": config.index_topk,
        "page": PAGE_SIZE,
    }
    for tokens, rows in ((FEW, SHORT), (SOME, SHORT), (FEW, LONG), (SOME, LONG)):
        yield OpCase("latent_attention", {**sizes, "T": tokens, "S": min(rows, longest)})
    dense = {**sizes, "T": SOME, "S": min(SHORT, longest), "k": 0}
    yield OpCase("latent_attention", dense)
    whole = {**sizes, "N": config.qk_nope_head_dim, "V": config.v_head_dim}
    for op in ("mla", "mla_expanded"):
        for tokens in (FEW, SOME):
            yield OpCase(op, {**whole, "T": tokens, "S": min(SHORT, longest)})


def _selection(config: ModelConfig) -> Iterator[OpCase]:
    longest, k = config.max_position_embeddings, config.index_topk
    sizes = {"H": config.index_n_heads, "D": config.index_head_dim, "page": PAGE_SIZE}
    for tokens, rows in ((FEW, LONG), (SOME, SHORT)):
        scored = {**sizes, "T": tokens, "S": min(rows, longest)}
        yield OpCase("index_scores", scored)
        yield OpCase("dsa_select", {**scored, "k": k})
    for tokens, rows in ((FEW, LONG), (SOME, LONG), (MANY, SHORT)):
        for expression in EXPRESSIONS:
            ranked = {"T": tokens, "S": min(rows, longest), "k": k}
            yield OpCase("topk", ranked, expression)


def _experts(config: ModelConfig) -> Iterator[OpCase]:
    hidden, inner, k = config.hidden_size, config.moe_intermediate_size, config.num_experts_per_tok
    together = EXPERT_BYTES // (3 * 2 * hidden * inner)
    held = min(config.n_routed_experts, max(together, _FEWEST_EXPERTS))
    groups = {"n_group": config.n_group, "topk_group": config.topk_group}
    for tokens in (FEW, MANY):
        routed = {"T": tokens, "E": config.n_routed_experts, "k": k}
        yield OpCase("moe_route", {**routed, **groups})
        yield OpCase("moe_dispatch", {**routed, "D": hidden})
        yield OpCase("moe_combine", {"T": tokens, "D": hidden, "k": k})
        grouped = {"P": tokens * k, "K": hidden, "N": 2 * inner, "E": held}
        yield OpCase("grouped_linear", grouped)
        yield OpCase("moe_experts", {"T": tokens, "D": hidden, "I": inner, "E": held, "k": k})


def _rest(config: ModelConfig) -> Iterator[OpCase]:
    heads, nope, latent = (
        config.num_attention_heads,
        config.qk_nope_head_dim,
        config.kv_lora_rank,
    )
    yield OpCase("muon_orthogonalize", {"B": heads, "m": nope, "n": latent})
    for tokens in (FEW, 16):
        yield OpCase("sample", {"T": tokens, "V": config.vocab_size})
    part = {"T": 16, "K": config.moe_intermediate_size, "N": config.q_lora_rank}
    yield OpCase("row_exponents", {"T": part["T"], "K": part["K"]})
    yield OpCase("linear_limbs", part)
    yield OpCase("linear_from_limbs", part)
