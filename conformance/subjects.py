"""Building calls: for each op a function from (shape, kind of data, dtype) to a call."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from glm5_hal import Numerics, PagedContext, WeightRole
from glm5_hal.conformance import data
from glm5_hal.conformance.call import CacheValue, Call, ShardValue, WeightValue
from glm5_hal.conformance.shapes import SHAPES, Shape
from glm5_hal.ops.row_exponents import NOT_FINITE
from glm5_hal.rope_table import rope_table

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Variant:
    """One input of an op.

    Attributes:
        op: name of the op.
        shape: sizes.
        kind: kind of data, see `data.KINDS`.
        dtype: ``fp32`` or ``bf16``.
    """

    op: str
    shape: Shape
    kind: str = "normal"
    dtype: str = "fp32"

    @property
    def label(self) -> str:
        """As it stands in a case id."""
        return f"{self.shape.label}/{self.kind}/{self.dtype}"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The activation dtype."""
        return DTYPES[self.dtype]

    def values(self, part: str, *shape: int) -> Tensor:
        """Data of the variant's kind for one argument."""
        return data.values(self.kind, self.name(part), shape, self.torch_dtype)

    def plain(self, part: str, *shape: int, scale: float = 1.0) -> Tensor:
        """Normal data in the activation dtype, whatever the variant's kind."""
        return data.normal(self.name(part), shape, self.torch_dtype, scale)

    def float32(self, part: str, *shape: int, scale: float = 1.0) -> Tensor:
        """Normal data in float32."""
        return data.normal(self.name(part), shape, torch.float32, scale)

    def integers(self, part: str, *shape: int, low: int = 0, high: int) -> Tensor:
        """int32 data in [low, high)."""
        return data.integers(self.name(part), shape, low, high)

    def name(self, part: str) -> str:
        """Name, and so the seed, of one argument."""
        return f"{self.op}/{self.label}/{part}"

    def call(self) -> Call:
        """The call."""
        return BUILDERS[self.op](self)


def variants(
    op: str,
    *,
    kinds: tuple[str, ...] = ("normal",),
    dtypes: tuple[str, ...] = ("fp32", "bf16"),
    quick_only: bool = False,
    smallest_tokens: int = 0,
) -> list[Variant]:
    """Variants over an op's shapes; real widths come with normal data only."""
    return [
        Variant(op, shape, kind, dtype)
        for shape in SHAPES[op]
        if (shape.quick or not quick_only)
        and shape.sizes.get("T", shape.sizes.get("P", 1)) >= smallest_tokens
        for kind in kinds
        if kind == "normal" or not shape.real
        for dtype in dtypes
    ]


Builder = Callable[[Variant], Call]
BUILDERS: dict[str, Builder] = {}


def _builds(op: str) -> Callable[[Builder], Builder]:
    def enter(builder: Builder) -> Builder:
        BUILDERS[op] = builder
        return builder

    return enter


def _linear_weight(v: Variant, part: str, role: WeightRole, *shape: int) -> WeightValue:
    """A weight scaled to keep the size of its input."""
    return WeightValue(role, v.plain(part, *shape, scale=shape[-1] ** -0.5))


def _vector(v: Variant, part: str, size: int, around: float = 1.0) -> WeightValue:
    return WeightValue(WeightRole.VECTOR, v.float32(part, size, scale=0.1) + around)


@_builds("embedding")
def _(v: Variant) -> Call:
    s = v.shape
    table = WeightValue(WeightRole.EMBEDDING, v.values("table", s["V"], s["D"]))
    return Call("embedding", {"ids": v.integers("ids", s["T"], high=s["V"]), "table": table})


@_builds("linear")
def _(v: Variant) -> Call:
    s = v.shape
    w = _linear_weight(v, "w", WeightRole.LINEAR, s["N"], s["K"])
    return Call("linear", {"x": v.values("x", s["T"], s["K"]), "w": w})


@_builds("head_linear")
def _(v: Variant) -> Call:
    s = v.shape
    w = _linear_weight(v, "w", WeightRole.HEAD_LINEAR, s["H"], s["N"], s["K"])
    return Call("head_linear", {"x": v.values("x", s["T"], s["H"], s["K"]), "w": w})


@_builds("rms_norm")
def _(v: Variant) -> Call:
    s = v.shape
    x, residual = (v.values(part, s["T"], s["D"]) for part in ("x", "residual"))
    w = _vector(v, "w", s["D"])
    return Call("rms_norm", {"x": x, "w": w, "eps": 1e-5, "residual": residual})


@_builds("layer_norm")
def _(v: Variant) -> Call:
    s = v.shape
    arguments = {
        "x": v.values("x", s["T"], s["D"]),
        "w": _vector(v, "w", s["D"]),
        "b": _vector(v, "b", s["D"], around=0.0),
        "eps": 1e-6,
    }
    return Call("layer_norm", arguments)


@_builds("rope")
def _(v: Variant) -> Call:
    s = v.shape
    arguments = {
        "x": v.values("x", s["T"], s["H"], s["R"]),
        "positions": v.integers("positions", s["T"], high=s["P"]),
        "table": WeightValue(WeightRole.ROPE_TABLE, rope_table(1e6, s["R"], s["P"])),
        "interleaved": True,
    }
    return Call("rope", arguments)


@_builds("swiglu")
def _(v: Variant) -> Call:
    s = v.shape
    return Call("swiglu", {"gate_up": v.values("gate_up", s["T"], 2 * s["I"])})


@_builds("cache_write")
def _(v: Variant) -> Call:
    s = v.shape
    slots = data.permutation(v.name("slots"), s["pages"] * s["page"])[: s["T"]].int()
    cache = CacheValue(v.plain("cache", s["pages"] * s["page"], s["W"]), s["page"])
    rows = v.values("rows", s["T"], s["W"])
    return Call("cache_write", {"cache": cache, "rows": rows, "slots": slots})


@_builds("cache_read")
def _(v: Variant) -> Call:
    s = v.shape
    cache = CacheValue(v.values("cache", s["pages"] * s["page"], s["W"]), s["page"])
    slots = v.integers("slots", s["N"], high=s["pages"] * s["page"])
    return Call("cache_read", {"cache": cache, "slots": slots})


def _paged(v: Variant, width: int, *, centred: bool = False) -> tuple[CacheValue, PagedContext]:
    """Three sequences on shuffled pages; slots that no sequence owns hold NaN.

    The last sequence has S rows, the others a half and a third. The T queries are the last tokens
    of each, as in a chunk of a prefill. `centred` rows lie around a point of each sequence, so
    that their averages are not lost in rounding.
    """
    s = v.shape
    page = s["page"]
    rows_of = (max(1, s["S"] // 3), max(1, s["S"] // 2), s["S"])
    pages_of = [-(-rows // page) for rows in rows_of]
    total = sum(pages_of) + 2
    order = data.permutation(v.name("pages"), total).int()
    table = torch.full((len(rows_of), max(pages_of)), -1, dtype=torch.int32)
    cache = torch.full((total * page, width), torch.nan, dtype=v.torch_dtype)
    start = 0
    for row, (rows, pages) in enumerate(zip(rows_of, pages_of, strict=True)):
        table[row, :pages] = order[start : start + pages]
        start += pages
        place = torch.arange(rows)
        slots = table[row][place // page].long() * page + place % page
        cache[slots] = v.values(f"rows{row}", rows, width)
        if centred:
            cache[slots] += v.plain(f"centre{row}", width)
    counts = [min(s["T"] // 3, rows) for rows in rows_of[:-1]]
    counts.append(s["T"] - sum(counts))
    sequence = torch.repeat_interleave(torch.arange(3), torch.tensor(counts)).int()
    lengths = torch.cat(
        [
            torch.arange(rows - count + 1, rows + 1)
            for rows, count in zip(rows_of, counts, strict=True)
        ]
    ).int()
    context = PagedContext(table, sequence, lengths, max(rows_of))
    return CacheValue(cache, page), context


def _selection(v: Variant, lengths: Tensor) -> Tensor | None:
    """Ascending random positions below each length, [T, k]; None where k = 0."""
    k = v.shape["k"]
    if not k:
        return None
    out = torch.full((lengths.shape[0], k), -1, dtype=torch.int32)
    for token, length in enumerate(lengths.tolist()):
        chosen = data.permutation(v.name(f"chosen{token}"), length)[:k].sort().values
        out[token, : chosen.shape[0]] = chosen.int()
    return out


@_builds("latent_attention")
def _(v: Variant) -> Call:
    s = v.shape
    cache, context = _paged(v, s["C"] + s["R"], centred=True)
    arguments = {
        "q_latent": v.values("q_latent", s["T"], s["H"], s["C"]),
        "q_rope": v.values("q_rope", s["T"], s["H"], s["R"]),
        "cache": cache,
        "context": context,
        "scale": (s["C"] + s["R"]) ** -0.5,
        "indices": _selection(v, context.lengths),
    }
    return Call("latent_attention", arguments)


def _mla(op: str) -> Builder:
    def build(v: Variant) -> Call:
        s = v.shape
        cache, context = _paged(v, s["C"] + s["R"], centred=True)
        # queries so small that the terms of a score sum to about 1 in absolute value: the bound
        # on rounding the absorbed query grows with that sum
        divisor = max(1, round(0.25 * s["C"] * (s["N"] / (s["N"] + s["R"])) ** 0.5))
        arguments = {
            "q_nope": v.values("q_nope", s["T"], s["H"], s["N"]) / divisor,
            "q_rope": v.values("q_rope", s["T"], s["H"], s["R"]) / divisor,
            "cache": cache,
            "context": context,
            "w_uk": _linear_weight(v, "w_uk", WeightRole.HEAD_LINEAR, s["H"], s["C"], s["N"]),
            "w_uv": _linear_weight(v, "w_uv", WeightRole.HEAD_LINEAR, s["H"], s["V"], s["C"]),
            "scale": (s["N"] + s["R"]) ** -0.5,
            "indices": _selection(v, context.lengths),
        }
        return Call(op, arguments)

    return build


BUILDERS["mla"] = _mla("mla")
BUILDERS["mla_expanded"] = _mla("mla_expanded")


@_builds("index_scores")
def _(v: Variant) -> Call:
    s = v.shape
    keys, context = _paged(v, s["D"])
    arguments = {
        "q": v.values("q", s["T"], s["H"], s["D"]),
        "w": v.float32("w", s["T"], s["H"]),
        "keys": keys,
        "context": context,
        "scale": s["H"] ** -0.5 * s["D"] ** -0.5,
    }
    return Call("index_scores", arguments)


@_builds("dsa_select")
def _(v: Variant) -> Call:
    scored = BUILDERS["index_scores"](v)
    return Call("dsa_select", {**scored.arguments, "k": v.shape["k"]})


@_builds("topk")
def _(v: Variant) -> Call:
    s = v.shape
    scores = data.values(v.kind, v.name("scores"), (s["T"], s["S"]), torch.float32)
    lengths = v.integers("lengths", s["T"], low=max(1, s["S"] // 2), high=s["S"] + 1)
    lengths[0] = s["S"]
    behind = torch.arange(s["S"]) >= lengths.unsqueeze(1)
    # what stands behind a length is never to be read: NaN would win
    scores = scores.masked_fill(behind, torch.nan)
    return Call("topk", {"scores": scores, "lengths": lengths, "k": s["k"]})


@_builds("moe_route")
def _(v: Variant) -> Call:
    s = v.shape
    logits = data.values(v.kind, v.name("logits"), (s["T"], s["E"]), torch.float32)
    arguments = {
        "logits": logits,
        "bias": _vector(v, "bias", s["E"], around=0.0),
        "k": s["k"],
        "n_group": s["n_group"],
        "topk_group": s["topk_group"],
        "normalize": True,
        "scale": 2.5,
    }
    return Call("moe_route", arguments)


def expert_ids(v: Variant, experts: int) -> Tensor:
    """Distinct ascending experts of each token, [T, k]; one expert is hot, one is empty."""
    tokens, k = v.shape["T"], v.shape["k"]
    ids = torch.empty(tokens, k, dtype=torch.int32)
    for token in range(tokens):
        order = data.permutation(v.name(f"ids{token}"), experts)
        if experts > k + 1:
            order = order[(order != 0) & (order != experts - 1)]  # expert 0 is hot, the last empty
            order = torch.cat((torch.tensor([0]), order))
        ids[token] = order[:k].sort().values.int()
    return ids


@_builds("moe_dispatch")
def _(v: Variant) -> Call:
    s = v.shape
    ids = expert_ids(v, s["E"])
    x = v.values("x", s["T"], s["D"])
    return Call("moe_dispatch", {"x": x, "ids": ids, "experts": s["E"]})


@_builds("moe_combine")
def _(v: Variant) -> Call:
    s = v.shape
    slots = torch.sort(expert_ids(v, 4 * s["k"]).flatten(), stable=True).indices.int()
    arguments = {
        "rows": v.values("rows", s["T"] * s["k"], s["D"]),
        "slots": slots,
        "weights": v.float32("weights", s["T"], s["k"]).abs(),
        "shared": v.values("shared", s["T"], s["D"]),
    }
    return Call("moe_combine", arguments)


@_builds("grouped_linear")
def _(v: Variant) -> Call:
    s = v.shape
    cuts = v.integers("cuts", s["E"] - 1, high=s["P"] + 1).sort().values
    if s["E"] > 2:
        cuts[1] = cuts[0]  # an expert without rows
    offsets = torch.tensor([0, *cuts.sort().values.tolist(), s["P"]], dtype=torch.int32)
    w = _linear_weight(v, "w", WeightRole.EXPERTS, s["E"], s["N"], s["K"])
    return Call("grouped_linear", {"x": v.values("x", s["P"], s["K"]), "w": w, "offsets": offsets})


@_builds("moe_experts")
def _(v: Variant) -> Call:
    s = v.shape
    gate_up = _linear_weight(v, "gate_up", WeightRole.EXPERTS, s["E"], 2 * s["I"], s["D"])
    arguments = {
        "x": v.values("x", s["T"], s["D"]),
        "ids": expert_ids(v, s["E"]),
        "weights": v.float32("weights", s["T"], s["k"]).abs(),
        "w_gate_up": gate_up,
        "w_down": _linear_weight(v, "down", WeightRole.EXPERTS, s["E"], s["D"], s["I"]),
        "shared": v.values("shared", s["T"], s["D"]),
    }
    return Call("moe_experts", arguments)


@_builds("muon_orthogonalize")
def _(v: Variant) -> Call:
    s = v.shape
    return Call("muon_orthogonalize", {"g": v.values("g", s["B"], s["m"], s["n"]), "steps": 5})


@_builds("sample")
def _(v: Variant) -> Call:
    s = v.shape
    logits = data.values(v.kind, v.name("logits"), (s["T"], s["V"]), torch.float32) * 2
    cold = torch.arange(s["T"]) % 3 == 0
    arguments = {
        "logits": logits,
        "temperature": torch.where(cold, 0.0, 0.8),
        "top_p": torch.full((s["T"],), 0.9),
        "draws": v.integers("draws", s["T"], high=1 << 24),
    }
    return Call("sample", arguments)


@_builds("row_exponents")
def _(v: Variant) -> Call:
    s = v.shape
    return Call("row_exponents", {"x": v.values("x", s["T"], s["K"])})


def _shard(v: Variant) -> ShardValue:
    """The middle K columns of a weight that has two more on either side."""
    wide = v.plain("w", v.shape["N"], v.shape["K"] + 4, scale=(v.shape["K"] + 4) ** -0.5)
    return ShardValue(wide, 2, v.shape["K"] + 2)


@_builds("linear_limbs")
def _(v: Variant) -> Call:
    x = v.values("x", v.shape["T"], v.shape["K"])
    # another rank's part of each row may hold larger values: up to twice here
    (own,) = Call("row_exponents", {"x": x}).defined(Numerics.EXACT)
    above = v.integers("above", v.shape["T"], high=2)
    exponents = torch.where(own == NOT_FINITE, own, own + above)
    return Call("linear_limbs", {"x": x, "w": _shard(v), "exponents": exponents})


@_builds("linear_from_limbs")
def _(v: Variant) -> Call:
    part = BUILDERS["linear_limbs"](v)
    (limbs,) = part.defined(Numerics.EXACT)
    arguments = {
        "limbs": 3 * limbs,  # as the sum of three ranks
        "exponents": part.arguments["exponents"],
        "w": part.arguments["w"],
        "out_dtype": v.torch_dtype,
    }
    return Call("linear_from_limbs", arguments)
