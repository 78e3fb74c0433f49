"""Every kernel as it is compiled for GLM-5, to be compiled ahead of time for chips that are absent.

One entry is one specialisation: argument types, compile-time sizes and options of the compiler.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from glm5_hal import Numerics
from glm5_hal.kernels.triton import (
    dsa_select,
    fixing,
    index_scores,
    latent_attention,
    latent_attention_exact,
    latent_attention_fast,
    layer_norm,
    linear_from_limbs,
    linear_limbs,
    moe_combine,
    moe_dispatch,
    moe_route,
    muon_orthogonalize,
    products,
    rms_norm,
    rope,
    rows,
    sample,
    swiglu,
    topk,
)
from glm5_hal.kernels.triton.target import Target, read_target

EXACT, FAST = Numerics.EXACT, Numerics.FAST
FLOATS = {"bf16": 2, "fp32": 3}
"""Activation and weight types, and the digits of such a weight."""
ALIGNED = frozenset(
    [
        "first",
        "width",
        "length",
        "each",
        "stride",
        "plane",
        "x_plane",
        "w_plane",
        "latent_plane",
        "turned_plane",
        "half",
        "longest",
        "latent_width",
        "turned_width",
        "row_width",
        "token_stride",
        "head_stride",
        "page_size",
    ]
)
"""Integers that are multiples of 16 in GLM-5's shapes, which a launch finds out and uses."""


@dataclass(frozen=True)
class Kernel:
    """One specialisation of one kernel.

    Attributes:
        name: unique.
        op: the op it serves; the most prominent where it serves several.
        profile: the profile whose rules it keeps; EXACT where it serves both.
        function: the kernel, as decorated.
        signature: parameter to type, in order; ``constexpr`` for compile-time values.
        constexprs: their values.
        num_warps: warps of a program.
        num_stages: depth of the software pipeline.
        options: the two above, and that floats are never contracted.
        tile: its row in a target's table.
        aligned: int32 parameters that are multiples of 16, as every pointer is.
        grid: most programs of one launch along x, y and z, however large the op: see
            `Target.launch`.
        promised: bytes of shared memory that the table of tiles keeps to.
    """

    name: str
    op: str
    profile: Numerics
    function: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    num_warps: int
    num_stages: int
    options: Mapping[str, Any]
    tile: str
    aligned: tuple[str, ...]
    grid: tuple[int, int, int]
    promised: int


class _Table:
    """Makes entries for one target."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def entry(
        self,
        op: str,
        profile: Numerics,
        function: Any,
        tile: str,
        types: str,
        label: str = "",
        **constants: Any,
    ) -> Kernel:
        """An entry; `types` names the parameters that are not int32, as ``x:*bf16 eps:fp32``."""
        chosen = self.target.tile(tile)
        constexprs = {**chosen.sizes, **constants}
        known = dict(part.split(":") for part in types.split())
        signature = {
            name: "constexpr" if name in constexprs else known.pop(name, "i32")
            for name in function.arg_names
        }
        assert not known, f"{op}: {known} are no parameters"
        stem = function.__name__.removesuffix("_kernel")
        warps, stages = min(chosen.warps, self.target.max_warps), chosen.stages
        options = {
            "num_warps": warps,
            "num_stages": stages,
            "enable_fp_fusion": False,
            **chosen.options,
        }
        parts = (op, profile.value, "" if stem == profile.value else stem, label)
        return Kernel(
            name="/".join(filter(None, parts)),
            op=op,
            profile=profile,
            function=function,
            signature=signature,
            constexprs=constexprs,
            num_warps=warps,
            num_stages=stages,
            options=options,
            tile=tile,
            aligned=tuple(n for n, kind in signature.items() if kind == "i32" and n in ALIGNED),
            grid=(self.target.grid_limit, 1, 1),
            promised=self.target.shared_memory,
        )

    def every(self) -> Iterator[Kernel]:
        """All entries."""
        for dtype, digits in FLOATS.items():
            yield from self.cutting(dtype, digits)
            yield from self.products(dtype, digits)
            yield from self.elements(dtype)
            yield from self.attention(dtype, digits)
            yield from self.scores(dtype, digits)
            if self.target.barriers:
                yield from self.selecting(dtype, digits)
            yield from self.muon(dtype)
        yield from self.choosing()
        yield from self.moving()

    def cutting(self, dtype: str, digits: int) -> Iterator[Kernel]:
        """Rows to exponents and digits."""
        rows = f"x:*{dtype} exponents:*i32"
        function = fixing.exponents_kernel
        yield self.entry("row_exponents", EXACT, function, "exponents", rows, dtype)
        types, function = f"{rows} planes:*i8", fixing.cut_kernel
        for count in {3, digits}:
            size, label = {"known": False, "digits": count}, f"{dtype}-{count}"
            yield self.entry("linear", EXACT, function, "cut", types, label, **size)
        size = {"known": True, "digits": 3}
        yield self.entry("linear_limbs", EXACT, function, "cut", types, f"{dtype}-known", **size)

    def products(self, dtype: str, digits: int) -> Iterator[Kernel]:
        """Matrix products."""
        digit = "x:*i8 x_exponents:*i32 w:*i8 w_exponents:*i32 offsets:*i32 out:*"
        plain = f"x:*{dtype} w:*{dtype} out:*{dtype} offsets:*i32"
        for op, grouped in (("linear", False), ("grouped_linear", True)):
            size = {"grouped": grouped, "padded_groups": 256 if grouped else 16}
            for tile in ("exact_product", "exact_small"):
                for long in (False, True):
                    small = ["small"] if tile == "exact_small" else []
                    label = "-".join([dtype, *small, *(["long"] if long else [])])
                    constants = {**size, "digits": digits, "long": long}
                    function = products.exact_kernel
                    yield self.entry(op, EXACT, function, tile, digit + dtype, label, **constants)
            yield self.entry(
                op, FAST, products.fast_kernel, "fast_product", plain, dtype, **size, wide=False
            )
        limbs = "x:*i8 w:*i8 out:*i32"
        size = {"digits": digits, "long": False}
        function = linear_limbs.limbs_kernel
        yield self.entry("linear_limbs", EXACT, function, "exact_product", limbs, dtype, **size)
        values = f"limbs:*i32 x_exponents:*i32 w_exponents:*i32 out:*{dtype}"
        function = linear_from_limbs.values_kernel
        yield self.entry(
            "linear_from_limbs", EXACT, function, "values", values, dtype, digits=digits
        )

    def elements(self, dtype: str) -> Iterator[Kernel]:
        """Rows and elements."""
        norm = f"x:*{dtype} w:*fp32 y:*{dtype} length:fp32 eps:fp32"
        sums = f"{norm} residual:*{dtype} h:*{dtype}"
        turn = f"x:*{dtype} positions:*i32 table:*fp32 out:*{dtype}"
        gate = f"gate_up:*{dtype} out:*{dtype}"
        back = f"expert_rows:*{dtype} places:*i32 weights:*fp32 shared:*{dtype} out:*{dtype}"
        for profile in (EXACT, FAST):
            exact = profile is EXACT
            function = rms_norm.exact_kernel if exact else rms_norm.fast_kernel
            size = {"summed": True, "block": 8192}
            yield self.entry("rms_norm", profile, function, "norm", sums, dtype, **size)
            function = layer_norm.exact_kernel if exact else layer_norm.fast_kernel
            yield self.entry(
                "layer_norm", profile, function, "norm", f"{norm} b:*fp32", dtype, block=128
            )
            for interleaved in (True, False):
                label = f"{dtype}-{'interleaved' if interleaved else 'halves'}"
                size = {"interleaved": interleaved, "exact": exact, "block": 32}
                yield self.entry("rope", profile, rope.rope_kernel, "rope", turn, label, **size)
            function = swiglu.exact_kernel if exact else swiglu.fast_kernel
            yield self.entry("swiglu", profile, function, "elements", gate, dtype)
            size = {"added": True, "exact": exact}
            function = moe_combine.combine_kernel
            yield self.entry("moe_combine", profile, function, "elements", back, dtype, **size)

    def attention(self, dtype: str, digits: int) -> Iterator[Kernel]:
        """Attention, dense and over selected rows."""
        op, exact, fast = "latent_attention", latent_attention_exact, latent_attention_fast
        paged = f"cache:*{dtype} pages:*i32 sequence:*i32 visible:*i32 indices:*i32"
        found = "scores:*fp32 exponents:*i32 tops:*i32 lifts:*i32"
        query = "latents:*i8 latent_exponents:*i32 turned:*i8 turned_exponents:*i32"
        ends = "visible:*i32 tops:*i32 lifts:*i32"
        heads = self.target.tile("attention_spans").sizes["heads"]
        for selected in (False, True):
            label = f"{dtype}-{'selected' if selected else 'dense'}"
            size = {"selected": selected, "digits": digits}
            types = f"{query} {paged} {found} factor:fp32"
            yield self.entry(
                op, EXACT, exact.score_kernel, "attention_scores", types, label, **size
            )
            types = f"{paged} {found} sums:*i32 masses:*i32"
            yield self.entry(op, EXACT, exact.weigh_kernel, "attention_sums", types, label, **size)
            types = (
                f"latents:*{dtype} turned:*{dtype} {paged} sums:*fp32 masses:*fp32 tops:*fp32 "
                "factor:fp32"
            )
            size = {"selected": selected, "wide": False, "columns": 512, "heads": heads}
            yield self.entry(op, FAST, fast.span_kernel, "attention_spans", types, label, **size)
        types = f"{ends} sums:*i32 masses:*i32 out:*{dtype}"
        size = {"digits": digits, "block": 512}
        yield self.entry(op, EXACT, exact.divide_kernel, "attention_end", types, dtype, **size)
        types = f"visible:*i32 sums:*fp32 masses:*fp32 tops:*fp32 out:*{dtype}"
        span = self.target.tile("attention_spans").sizes["span"]
        size = {"span": span, "block": 512}
        yield self.entry(op, FAST, fast.join_kernel, "attention_end", types, dtype, **size)

    def scores(self, dtype: str, digits: int) -> Iterator[Kernel]:
        """Index scores."""
        paged = f"keys:*{dtype} pages:*i32 sequence:*i32 lengths:*i32 w:*fp32 out:*fp32 scale:fp32"
        types = f"{paged} queries:*i8 query_exponents:*i32"
        size = {"digits": digits, "heads": 32}
        function = index_scores.exact_kernel
        yield self.entry("index_scores", EXACT, function, "exact_scores", types, dtype, **size)
        types, size = f"{paged} queries:*{dtype}", {"wide": False, "heads": 32}
        function = index_scores.fast_kernel
        yield self.entry("index_scores", FAST, function, "fast_scores", types, dtype, **size)

    def selecting(self, dtype: str, digits: int) -> Iterator[Kernel]:
        """Index scores and top-k in one."""
        paged = f"w:*fp32 keys:*{dtype} pages:*i32 sequence:*i32 lengths:*i32"
        found = "scores:*fp32 places:*i32 out:*i32 held_out:*i32 scale:fp32"
        size: dict[str, Any] = {"heads": 32, "wide": False, "sweep": 2048, "fill": 1024}
        for profile in (EXACT, FAST):
            exact = profile is EXACT
            tile, queries = ("exact_select", "i8") if exact else ("fast_select", dtype)
            types = f"queries:*{queries} query_exponents:*i32 {paged} {found}"
            yield self.entry(
                "dsa_select",
                profile,
                dsa_select.select_kernel,
                tile,
                types,
                dtype,
                exact=exact,
                digits=digits,
                **size,
            )

    def muon(self, dtype: str) -> Iterator[Kernel]:
        """Newton-Schulz, beside its products."""
        op, kernels = "muon_orthogonalize", muon_orthogonalize
        types = f"g:*{dtype} exponents:*i32 out:*fp32"
        yield self.entry(op, EXACT, kernels.wide_kernel, "flat", types, dtype)
        for profile in (EXACT, FAST):
            types, exact = f"x:*fp32 exponents:*i32 out:*{dtype}", profile is EXACT
            yield self.entry(op, profile, kernels.end_kernel, "flat", types, dtype, exact=exact)
            if dtype == "bf16":
                continue
            types = "wide:*fp32 inverses:*fp32 out:*fp32"
            yield self.entry(op, profile, kernels.begin_kernel, "flat", types, exact=exact)
            types = "x:*fp32 y:*fp32 out:*fp32 a:fp32 b:fp32"
            for weighted in (True, False):
                label, size = "weighted" if weighted else "", {"weighted": weighted, "exact": exact}
                yield self.entry(op, profile, kernels.mix_kernel, "flat", types, label, **size)
        if dtype == "fp32":
            types = "wide:*fp32 squares:*fp32"
            yield self.entry(op, EXACT, kernels.square_kernel, "exponents", types)
            types = "squares:*fp32 inverses:*fp32"
            yield self.entry(op, EXACT, kernels.inverse_kernel, "inverse", types, block=256)

    def choosing(self) -> Iterator[Kernel]:
        """Top-k, routing, sampling."""
        types = "scores:*fp32 lengths:*i32 out:*i32"
        yield self.entry("topk", EXACT, topk.topk_kernel, "topk", types, fill=1024)
        if self.target.barriers:
            types = "scores:*fp32 places:*i32 helds:*i32 joined:*fp32 joined_places:*i32 out:*i32"
            function, tile = dsa_select.join_kernel, "join_select"
            yield self.entry("dsa_select", EXACT, function, tile, types, sweep=2048, fill=1024)
        types = "indices:*i32 out:*i32"
        function = latent_attention.visible_kernel
        yield self.entry("latent_attention", EXACT, function, "visible", types, block=1024)
        types = "logits:*fp32 bias:*fp32 ids:*i32 weights:*fp32 scale:fp32"
        for profile in (EXACT, FAST):
            for groups in (1, 8):
                size = {"groups": groups, "members": 256 // groups, "slots": 8}
                constants = {**size, "normalize": True, "exact": profile is EXACT}
                label = f"{groups}-groups"
                function = moe_route.route_kernel
                yield self.entry("moe_route", profile, function, "route", types, label, **constants)
        first = "logits:*fp32 temperature:*fp32 largest:*fp32 drawn:*i32"
        types = f"{first} greedy:*i32"
        yield self.entry("sample", EXACT, sample.largest_kernel, "sample", types)
        types = f"{first} weights:*i32"
        yield self.entry("sample", EXACT, sample.weight_kernel, "sample", types)
        types = "weights:*i32 greedy:*i32 drawn:*i32 limits:*i32 draws:*i32 out:*i32"
        yield self.entry("sample", EXACT, sample.draw_kernel, "sample", types)

    def moving(self) -> Iterator[Kernel]:
        """Rows from place to place."""
        for word in ("i16", "i32"):
            types = f"source:*{word} goal:*{word} places:*i32"
            for op, scatter in (("embedding", False), ("cache_write", True)):
                function = rows.move_kernel
                yield self.entry(op, EXACT, function, "rows", types, word, scatter=scatter)
        op, kernels = "moe_dispatch", moe_dispatch
        size: dict[str, Any] = {"padded_experts": 256}
        types = "ids:*i32 counts:*i32"
        yield self.entry(op, EXACT, kernels.count_kernel, "sort", types, **size)
        types = "counts:*i32 places:*i32 offsets:*i32"
        yield self.entry(op, EXACT, kernels.place_kernel, "places", types, **size)
        types = "ids:*i32 places:*i32 slots:*i32"
        yield self.entry(op, EXACT, kernels.sort_kernel, "sort", types)
        types = "slots:*i32 places:*i32"
        yield self.entry("moe_combine", EXACT, moe_combine.invert_kernel, "invert", types)


def kernels(target: Target | None = None) -> tuple[Kernel, ...]:
    """Every kernel with the tiles of a target; by default with the portable ones."""
    chosen = target or read_target("glm5_hal.kernels.triton", "portable.yaml")
    return tuple(_Table(chosen).every())
