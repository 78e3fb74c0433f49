"""One op over several ranks, simulated in one process: the bytes of one rank."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from glm5_hal import Runtime
from glm5_hal.conformance.call import Call, ShardValue, WeightValue, answer
from glm5_hal.conformance.case import Case, Check, Evidence, Failure
from glm5_hal.conformance.families.judging import case, in_exact, raw_digests, same_bytes
from glm5_hal.conformance.shapes import Shape
from glm5_hal.conformance.subjects import Variant, variants
from glm5_hal.levels import Level
from glm5_hal.ops.linear_limbs import LIMB_BITS

RANKS = (1, 2, 3, 4, 8)
_ASPECT = Level.RANK_INVARIANT.value
_SHAPES = (
    Shape({"T": 5, "K": 67, "N": 24}, quick=True),
    Shape({"T": 3, "K": 5, "N": 9}, quick=True),  # fewer columns than ranks: some have none
    Shape({"T": 3, "K": 2048, "N": 128}),
)


def cases() -> Iterator[Case]:
    """Columns of linear over ranks, then experts over ranks."""
    for dtype in ("fp32", "bf16"):
        for shape in _SHAPES:
            for kind in ("normal", "outlier1000", "subnormal", "nan"):
                v = Variant("linear", shape, kind, dtype)
                yield _case("LINEAR-FROM-LIMBS-1", "linear_from_limbs", v, _split(v), "ranks")
        for shape in _SHAPES[:2]:
            v = Variant("linear", shape, "normal", dtype)
            yield _case("ROW-EXPONENTS-1", "row_exponents", v, _one_exponent(v), "largest")
            yield _case("LINEAR-LIMBS-1", "linear_limbs", v, _limbs_in_range(v), "limbs")
        for v in variants("moe_experts", dtypes=(dtype,), quick_only=True):
            yield _case("EXPERTS-2", "moe_experts", v, _experts(v), "ranks")


def _case(requirement: str, op: str, v: Variant, check: Check, tag: str) -> Case:
    made = case(requirement, "invariance", v, check, aspect=_ASPECT, tag=tag)
    return in_exact(replace(made, op=op))


def _spans(width: int, ranks: int) -> list[tuple[int, int]]:
    """Uneven parts of [0, width): the first rank of several has none, the others grow."""
    total = max(ranks * (ranks - 1) // 2, 1)
    cuts = [width * (rank * (rank - 1) // 2) // total for rank in range(1, ranks)]
    return list(zip([0, *cuts], [*cuts, width], strict=True))


class _Ranks:
    """A linear whose columns lie on several ranks.

    Attributes:
        exponents: [T], the largest of those of the ranks.
        limbs: [T, N, 3], of each rank.
    """

    def __init__(self, runtime: Runtime, x: Tensor, w: Tensor, ranks: int) -> None:
        spans = _spans(x.shape[1], ranks)
        parts = [x[:, start:stop].contiguous() for start, stop in spans]
        self.shards = [ShardValue(w, *span) for span in spans]
        each = [answer(runtime, Call("row_exponents", {"x": part}))[0] for part in parts]
        self.exponents = torch.stack(each).amax(0)
        self.limbs = [
            answer(
                runtime,
                Call("linear_limbs", {"x": part, "w": shard, "exponents": self.exponents}),
            )[0]
            for part, shard in zip(parts, self.shards, strict=True)
        ]

    def values(self, runtime: Runtime, out_dtype: torch.dtype) -> tuple[Tensor, ...]:
        """What every rank makes of the sum; the last one's shard is asked."""
        arguments = {
            "limbs": torch.stack(self.limbs).sum(0, dtype=torch.int32),
            "exponents": self.exponents,
            "w": self.shards[-1],
            "out_dtype": out_dtype,
        }
        return answer(runtime, Call("linear_from_limbs", arguments))


def _split(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        x, w = call.arguments["x"], call.arguments["w"].tensor
        if v.kind == "nan":
            w[1, 0] = torch.nan  # in columns that one rank holds; all must know
        found = answer(runtime, call)
        for ranks in RANKS:
            same_bytes(
                found,
                _Ranks(runtime, x, w, ranks).values(runtime, x.dtype),
                message="a row-parallel linear gives other bytes than linear",
                change=f"{ranks} ranks",
                hint="a carry between limbs, or exponents that are not the whole row's",
                any_nan=False,
            )
        return Evidence(raw_digests(found))

    return check


def _one_exponent(v: Variant) -> Check:
    """The largest exponent of the parts is that of the whole row."""

    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        x, w = call.arguments["x"], call.arguments["w"].tensor
        x = x * 0.5 ** torch.arange(x.shape[1])[None].remainder(40)
        x = x.to(v.torch_dtype)
        whole = answer(runtime, Call("row_exponents", {"x": x}))
        for ranks in RANKS:
            same_bytes(
                whole,
                (_Ranks(runtime, x, w, ranks).exponents,),
                message="the largest exponent of the parts is not the row's",
                change=f"{ranks} ranks",
            )
        return Evidence(raw_digests(whole))

    return check


def _limbs_in_range(v: Variant) -> Check:
    """Low limbs lie in [0, 2^24), whatever the sign of the sum; the limbs' sum is the whole's."""

    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        x, w = call.arguments["x"], call.arguments["w"].tensor
        whole = _Ranks(runtime, x, w, 1)
        for ranks in RANKS:
            split = _Ranks(runtime, x, w, ranks)
            for limbs in split.limbs:
                low = limbs[..., :2]
                if bool(((low < 0) | (low >= 1 << LIMB_BITS)).any()):
                    raise Failure("a low limb is not in [0, 2^24)", change=f"{ranks} ranks")
            same_bytes(
                (_value(whole.limbs),),
                (_value(split.limbs),),
                message="the limbs of the ranks are not those of the whole",
                change=f"{ranks} ranks",
                hint="a carry between limbs, or the exponents of a part",
            )
        return Evidence(raw_digests(tuple(whole.limbs)))

    return check


def _value(limbs: list[Tensor]) -> Tensor:
    low, middle, high = torch.stack(limbs).long().sum(0).unbind(-1)
    return (((high << LIMB_BITS) + middle) << LIMB_BITS) + low


def _experts(v: Variant) -> Check:
    """Each rank holds some experts and multiplies the rows that are theirs."""

    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        a = call.arguments
        experts = a["w_gate_up"].tensor.shape[0]
        found = answer(runtime, call)
        dispatch = Call("moe_dispatch", {"x": a["x"], "ids": a["ids"], "experts": experts})
        rows, offsets, slots = answer(runtime, dispatch)
        for ranks in RANKS:
            parts = [
                _own_experts(runtime, call, rows, offsets, first, last)
                for first, last in _spans(experts, ranks)
            ]
            combine = {
                "rows": torch.cat(parts),
                "slots": slots,
                "weights": a["weights"],
                "shared": a["shared"],
            }
            same_bytes(
                found,
                answer(runtime, Call("moe_combine", combine)),
                message="experts spread over ranks give other bytes",
                change=f"{ranks} ranks",
                hint="sums in order of ranks instead of slots, or a tile chosen by shape",
                any_nan=False,
            )
        return Evidence(raw_digests(found))

    return check


def _own_experts(
    runtime: Runtime, call: Call, rows: Tensor, offsets: Tensor, first: int, last: int
) -> Tensor:
    """Expert outputs of the rows of experts [first, last)."""
    bounds = offsets[first : last + 1]
    mine = rows[int(bounds[0]) : int(bounds[-1])]
    if first == last:
        return mine[:0]

    def linear(x: Tensor, name: str) -> Tensor:
        weight: WeightValue = call.arguments[name]
        own = WeightValue(weight.role, weight.tensor[first:last].contiguous())
        arguments = {"x": x, "w": own, "offsets": bounds - bounds[0]}
        return answer(runtime, Call("grouped_linear", arguments))[0]

    (hidden,) = answer(runtime, Call("swiglu", {"gate_up": linear(mine, "w_gate_up")}))
    return linear(hidden, "w_down")
