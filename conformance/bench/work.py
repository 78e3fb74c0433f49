"""The least that an op call must do: operations of its products, and bytes in and out.

A multiply-add is two operations; what is done once an element (norms, activations, exponentials)
is not counted, it hides behind the bytes. Every input byte is read once and every output byte is
written once, however often a program does it; of caches and expert weights only the rows and
experts that are asked for. So the time that follows (`Work.seconds`) is a floor: caches of the
machine may hide bytes, but no program does fewer operations with the same formula.

Sources: DeepSeek-V2 (2405.04434) section 2.1, absorbed form, for attention; DeepSeek-V3.2 report,
equation 1, for index scores; DeepSeekMoE (2401.06066) for experts; Moonlight (2502.16982) for
Newton-Schulz.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glm5_hal import PagedContext
from glm5_hal.conformance.bench.peaks import Peaks
from glm5_hal.conformance.call import CacheValue, Call, ShardValue, WeightValue


@dataclass(frozen=True)
class Work:
    """Of one call or of a part of a model.

    Attributes:
        flop: operations of products.
        bytes: read and written, at least.
    """

    flop: int
    bytes: int

    def seconds(self, peaks: Peaks) -> float:
        """The floor: as long as the longer of the two takes at the machine's peaks."""
        return max(self.flop / peaks.flops, self.bytes / peaks.bandwidth)


def of(call: Call) -> Work:
    """The work of a call with host values."""
    rule = _RULES.get(call.op, _moved)
    return rule(call.arguments)


Arguments = Any
_RULES: dict[str, Callable[[Arguments], Work]] = {}


def _rule(*ops: str) -> Callable[[Callable[[Arguments], Work]], Callable[[Arguments], Work]]:
    def enter(rule: Callable[[Arguments], Work]) -> Callable[[Arguments], Work]:
        _RULES.update(dict.fromkeys(ops, rule))
        return rule

    return enter


def _size(value: object) -> int:
    """Bytes of a tensor or weight; 0 of anything else."""
    if isinstance(value, WeightValue):
        value = value.tensor
    if isinstance(value, ShardValue):
        value = value.tensor[:, value.start : value.stop]
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def _inputs(a: Arguments, *left_out: str) -> int:
    return sum(_size(value) for name, value in a.items() if name not in left_out)


@_rule("swiglu")
def _(a: Arguments) -> Work:
    return Work(0, _size(a["gate_up"]) * 3 // 2)


@_rule("rms_norm")
def _(a: Arguments) -> Work:
    """Two outputs: the normed rows and the sum."""
    return Work(0, _inputs(a) + 2 * _size(a["x"]))


@_rule("layer_norm", "moe_combine")
def _moved(a: Arguments) -> Work:
    """Inputs, and an output as large as `x` or as the shared expert's."""
    return Work(0, _inputs(a) + _size(a.get("x", a.get("shared"))))


@_rule("embedding")
def _(a: Arguments) -> Work:
    table: Tensor = a["table"].tensor
    row = table.shape[1] * table.element_size()
    return Work(0, _size(a["ids"]) + 2 * row * len(a["ids"]))


@_rule("rope")
def _(a: Arguments) -> Work:
    """Of the table the rows of the positions."""
    table: Tensor = a["table"].tensor
    rows = len(a["positions"].unique()) * table.shape[1] * table.element_size()
    return Work(0, 2 * _size(a["x"]) + _size(a["positions"]) + rows)


@_rule("cache_write")
def _(a: Arguments) -> Work:
    return Work(0, 2 * _size(a["rows"]) + _size(a["slots"]))


@_rule("cache_read")
def _(a: Arguments) -> Work:
    rows: Tensor = a["cache"].rows
    return Work(0, _size(a["slots"]) + 2 * len(a["slots"]) * rows.shape[1] * rows.element_size())


@_rule("linear", "linear_limbs")
def _(a: Arguments) -> Work:
    """x [T, K] times w [N, K]: 2 T N K."""
    x: Tensor = a["x"]
    w: Tensor = a["w"].tensor
    rows, inner, outer = x.shape[0], x.shape[1], w.shape[0]
    item = 12 if "exponents" in a else x.element_size()  # three int32 limbs an element
    return Work(2 * rows * inner * outer, _inputs(a) + rows * outer * item)


@_rule("linear_from_limbs")
def _(a: Arguments) -> Work:
    rows, outer, _ = a["limbs"].shape
    return Work(0, _inputs(a, "w") + rows * outer * a["out_dtype"].itemsize)


@_rule("row_exponents")
def _(a: Arguments) -> Work:
    return Work(0, _inputs(a) + 4 * len(a["x"]))


@_rule("head_linear")
def _(a: Arguments) -> Work:
    x: Tensor = a["x"]
    heads, outer, inner = a["w"].tensor.shape
    products = 2 * x.shape[0] * heads * outer * inner
    return Work(products, _inputs(a) + x.shape[0] * heads * outer * x.element_size())


# --- attention and selection ---


def _rows_seen(context: PagedContext, indices: Tensor | None) -> tuple[int, int]:
    """(pairs of a token and a row that it attends to, different rows that are read)."""
    if indices is None:
        return int(context.lengths.sum()), _rows_visible(context)
    named = indices >= 0
    owners = context.sequence.long().unsqueeze(1) * context.max_length
    return int(named.sum()), len((owners + indices)[named].unique())


def _rows_visible(context: PagedContext) -> int:
    """Rows of all sequences that any token sees."""
    longest = torch.zeros(context.page_table.shape[0], dtype=context.lengths.dtype)
    longest.scatter_reduce_(0, context.sequence.long(), context.lengths, "amax")
    return int(longest.sum())


def _row_bytes(cache: CacheValue) -> int:
    return cache.rows.shape[1] * cache.rows.element_size()


@_rule("latent_attention")
def _(a: Arguments) -> Work:
    """A pair costs 2 (C + R) operations a head for its score and 2 C for its value."""
    query: Tensor = a["q_latent"]
    _, heads, latent = query.shape
    pairs, rows = _rows_seen(a["context"], a["indices"])
    width = a["cache"].rows.shape[1]
    moved = _inputs(a) + rows * _row_bytes(a["cache"]) + _size(query)
    return Work(pairs * heads * 2 * (width + latent), moved)


@_rule("mla", "mla_expanded")
def _(a: Arguments) -> Work:
    """Absorbed: two products a head around latent attention."""
    query: Tensor = a["q_nope"]
    tokens, heads, nope = query.shape
    _, latent, _ = a["w_uk"].tensor.shape
    value = a["w_uv"].tensor.shape[1]
    pairs, rows = _rows_seen(a["context"], a["indices"])
    width = a["cache"].rows.shape[1]
    absorbed = 2 * tokens * heads * latent * (nope + value)
    moved = _inputs(a) + rows * _row_bytes(a["cache"])
    moved += tokens * heads * value * query.element_size()
    return Work(absorbed + pairs * heads * 2 * (width + latent), moved)


@_rule("index_scores")
def _(a: Arguments) -> Work:
    """A pair costs 2 D operations a head."""
    return _scored(a, 4 * len(a["q"]) * a["context"].max_length)


@_rule("dsa_select")
def _(a: Arguments) -> Work:
    """Scores need not be written."""
    return _scored(a, 4 * len(a["q"]) * a["k"])


def _scored(a: Arguments, written: int) -> Work:
    _, heads, width = a["q"].shape
    context: PagedContext = a["context"]
    moved = _inputs(a) + _rows_visible(context) * _row_bytes(a["keys"]) + written
    return Work(int(context.lengths.sum()) * heads * 2 * width, moved)


@_rule("topk")
def _(a: Arguments) -> Work:
    return Work(0, _inputs(a) + 4 * len(a["scores"]) * a["k"])


# --- experts and the rest ---


@_rule("moe_route")
def _(a: Arguments) -> Work:
    return Work(0, _inputs(a) + 8 * len(a["logits"]) * a["k"])


@_rule("moe_dispatch")
def _(a: Arguments) -> Work:
    slots = a["ids"].numel()
    row = _size(a["x"]) // len(a["x"])
    return Work(0, _inputs(a) + slots * (row + 4) + 4 * (a["experts"] + 1))


@_rule("grouped_linear")
def _(a: Arguments) -> Work:
    x: Tensor = a["x"]
    experts, outer, inner = a["w"].tensor.shape
    asked = int((a["offsets"].diff() > 0).sum())
    weights = _size(a["w"]) // experts * asked
    moved = _inputs(a, "w") + weights + len(x) * outer * x.element_size()
    return Work(2 * len(x) * outer * inner, moved)


@_rule("moe_experts")
def _(a: Arguments) -> Work:
    """Three products a chosen expert."""
    experts, hidden, inner = a["w_down"].tensor.shape
    asked = len(a["ids"].unique())
    weights = (_size(a["w_gate_up"]) + _size(a["w_down"])) // experts * asked
    moved = _inputs(a, "w_gate_up", "w_down") + weights + _size(a["x"])
    return Work(2 * a["ids"].numel() * 3 * hidden * inner, moved)


@_rule("muon_orthogonalize")
def _(a: Arguments) -> Work:
    """With m the short side: X X^T, A A and (b A + c A A) X a step."""
    g: Tensor = a["g"]
    short, long = sorted(g.shape[1:])
    step = 2 * short * short * (2 * long + short)
    return Work(len(g) * a["steps"] * step, 2 * _size(g))


@_rule("sample")
def _(a: Arguments) -> Work:
    return Work(0, _inputs(a) + 4 * len(a["logits"]))
