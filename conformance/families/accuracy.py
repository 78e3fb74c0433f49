"""Ops against float64 under the derived bound, and requirements on special values."""

from collections.abc import Iterator

import torch

from glm5_hal import Runtime, WeightRole
from glm5_hal.conformance import bounds
from glm5_hal.conformance.call import Call, WeightValue, answer
from glm5_hal.conformance.case import ACCURACY, Case, Check, Evidence, Failure
from glm5_hal.conformance.families.judging import case, digests, parity, same_bytes
from glm5_hal.conformance.shapes import Shape
from glm5_hal.conformance.subjects import Variant, variants
from glm5_hal.levels import Numerics

_ACCURATE = {
    "LINEAR-1": "linear",
    "HEAD-LINEAR-1": "head_linear",
    "GROUPED-LINEAR-1": "grouped_linear",
    "RMS-NORM-2": "rms_norm",
    "LAYER-NORM-1": "layer_norm",
    "ROPE-2": "rope",
    "SWIGLU-1": "swiglu",
    "ATTENTION-1": "latent_attention",
    "MLA-1": "mla",
    "MLA-EXPANDED-1": "mla_expanded",
    "INDEX-SCORES-1": "index_scores",
    "COMBINE-1": "moe_combine",
    "EXPERTS-1": "moe_experts",
    "MUON-1": "muon_orthogonalize",
}

_KINDS = ("normal", "outlier60", "outlier1000", "zeros", "subnormal")
_FEWER_KINDS: dict[str, tuple[str, ...]] = {
    # their oracles walk token by token; one kind of outlier is enough
    **dict.fromkeys(
        ("latent_attention", "mla", "mla_expanded", "moe_experts"), ("normal", "outlier60")
    ),
    # outliers leave a matrix of low rank, whose small directions amplify any rounding
    "muon_orthogonalize": ("normal",),
}


def cases() -> Iterator[Case]:
    """Accuracy of every op that rounds, then its requirements on special values."""
    for requirement, op in _ACCURATE.items():
        kinds = _FEWER_KINDS.get(op, _KINDS)
        for v in variants(op, kinds=kinds):
            yield case(requirement, "accuracy", v, _within_bound(v), aspect=ACCURACY)
    yield from _precision_cases()
    yield from _special_cases()


def _within_bound(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        exact, bound = bounds.of(call, runtime.plan.numerics)
        decoys = v.kind == "normal" and exact[0].numel() > 1
        return bounds.judge(call, exact, bound, answer(runtime, call), decoys=decoys)

    return check


def _precision_cases() -> Iterator[Case]:
    """Operands and sums whose value is lost in a narrower format."""
    for dtype in ("fp32", "bf16"):
        v = Variant("linear", Shape({"T": 33, "K": 64, "N": 32}, quick=True), "normal", dtype)
        yield case("LINEAR-5", "accuracy", v, _float_out(v), aspect=ACCURACY, tag="float-out")
    wide = _float_out(v, wide_weight=True)  # as the router has it: bf16 rows, float32 weight
    yield case("LINEAR-5", "accuracy", v, wide, aspect=ACCURACY, tag="wide-weight")
    v = Variant("linear", Shape({"T": 33, "K": 16, "N": 32}, quick=True), "normal", "fp32")
    yield case("LINEAR-3", "accuracy", v, _low_bits(v), aspect=ACCURACY, tag="low-bits")
    for dtype in ("fp32", "bf16"):
        v = Variant("rms_norm", Shape({"T": 33, "D": 128}, quick=True), "normal", dtype)
        yield case("RMS-NORM-1", "parity", v, _residual(v), tag="residual")
        v = Variant("head_linear", Shape({"T": 3, "H": 7, "K": 8, "N": 8}, quick=True), dtype=dtype)
        yield case("HEAD-LINEAR-3", "accuracy", v, _within_bound(v), aspect=ACCURACY, tag="heads")
        v = Variant("rope", Shape({"T": 5, "H": 2, "R": 8, "P": 64}, quick=True), dtype=dtype)
        yield case("ROPE-1", "accuracy", v, _rope_layouts(v), aspect=ACCURACY, tag="layouts")
        yield case("ROPE-4", "parity", v, _position_zero(v), tag="position-0")
        v = Variant(
            "grouped_linear", Shape({"P": 40, "K": 32, "N": 16, "E": 6}, quick=True), dtype=dtype
        )
        yield case("GROUPED-LINEAR-3", "accuracy", v, _one_expert(v), aspect=ACCURACY, tag="hot")
    for dtype in ("fp32", "bf16"):
        for m, n in ((40, 16), (16, 40)):
            v = Variant(
                "muon_orthogonalize", Shape({"B": 2, "m": m, "n": n}, quick=True), dtype=dtype
            )
            yield case("MUON-2", "invariance", v, _transposed(v), tag="transposed")
        v = Variant("muon_orthogonalize", Shape({"B": 2, "m": 8, "n": 8}, quick=True), dtype=dtype)
        yield case("MUON-4", "parity", v, _zero_matrix(v), tag="zero")


def _float_out(v: Variant, wide_weight: bool = False) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call().with_arguments(out_dtype=torch.float32)
        if wide_weight:
            rows = v.float32("wide", v.shape["N"], v.shape["K"], scale=v.shape["K"] ** -0.5)
            call = call.with_arguments(w=WeightValue(WeightRole.LINEAR, rows))
        x, w = call.arguments["x"].double(), call.arguments["w"].tensor.double()
        exact = (x @ w.T,)
        size = x.abs() @ w.abs().T
        bound = ((2 * x.shape[1] + 4) * 2.0**-24 * size + bounds.FLUSH,)
        if runtime.plan.numerics is Numerics.EXACT:
            bound = (bound[0] + bounds.fixing(call)[0],)
        found = answer(runtime, call)
        if found[0].dtype != torch.float32:
            raise Failure(f"result is {found[0].dtype}, out_dtype asked for float32")
        return bounds.judge(call, exact, bound, found)

    return check


def _low_bits(v: Variant) -> Check:
    """1 + j * 2^-20 against ones: exact in float32, gone in TF32 or bf16 passes."""

    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        steps = v.integers("steps", v.shape["T"], v.shape["K"], high=1 << 10)
        x = 1.0 + steps.float() * 2.0**-20
        w = call.arguments["w"]
        signs = torch.where(w.tensor > 0, 1.0, -1.0)
        signs[:, 1::2] = -signs[:, ::2]  # rows sum to zero, so only the low bits remain
        call = call.with_arguments(x=x, w=type(w)(w.role, signs))
        exact = (x.double() @ signs.double().T,)
        found = answer(runtime, call)
        bound = (torch.full_like(exact[0], 16 * 2.0**-23),)
        return bounds.judge(call, exact, bound, found)

    return check


def _residual(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        found = answer(runtime, call)
        expected = call.defined(runtime.plan.numerics)
        same_bytes(expected[1:], found[1:], message="h is not x + residual, rounded once")
        alone = call.with_arguments(residual=None)
        x = (call.arguments["x"],)
        same_bytes(x, answer(runtime, alone)[1:], message="without a residual h is not x")
        # the norm is taken of the rounded h
        again = call.with_arguments(x=found[1], residual=None)
        same_bytes(
            found[:1],
            answer(runtime, again)[:1],
            message="y is not the norm of the returned h",
            hint="the norm was taken of the unrounded sum",
        )
        return Evidence(digests(found))

    return check


def _rope_layouts(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        half = call.with_arguments(interleaved=False)
        for what, one in (("interleaved", call), ("half-split", half)):
            (exact,) = one.double().reference()
            size = torch.full_like(exact, float(call.arguments["x"].double().abs().max()) * 2)
            bound = 3 * 2.0**-24 * size + bounds.UNIT[v.torch_dtype] * exact.abs() + bounds.FLUSH
            found = answer(runtime, one)
            try:
                evidence = bounds.judge(one, (exact,), (bound,), found)
            except Failure as failure:
                raise Failure(
                    failure.message,
                    change=what,
                    difference=failure.difference,
                    hint="pairs are (x[2j], x[2j+1]) interleaved and (x[j], x[j+R/2]) half-split",
                ) from failure
        return evidence

    return check


def _position_zero(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        x = call.arguments["x"]
        zero = torch.zeros_like(call.arguments["positions"])
        found = answer(runtime, call.with_arguments(positions=zero))
        same_bytes((x + 0.0,), (found[0] + 0.0,), message="position 0 changes x")
        return Evidence(digests(found))

    return check


def _one_expert(v: Variant) -> Check:
    """All rows to each expert in turn; the others have none."""

    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        rows, experts = v.shape["P"], v.shape["E"]
        evidence = Evidence()
        for expert in (0, experts - 1):
            offsets = torch.zeros(experts + 1, dtype=torch.int32)
            offsets[expert + 1 :] = rows
            one = call.with_arguments(offsets=offsets)
            exact, bound = bounds.of(one, runtime.plan.numerics)
            evidence = bounds.judge(one, exact, bound, answer(runtime, one))
        return evidence

    return check


def _transposed(v: Variant) -> Check:
    """A tall matrix is iterated in transposed form, so it gives the transpose of the wide one."""

    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        found = answer(runtime, call)
        g = call.arguments["g"].mT.contiguous()
        (other,) = answer(runtime, call.with_arguments(g=g))
        same_bytes(
            found,
            (other.mT.contiguous(),),
            message="the transposed input does not give the transposed result",
            hint="a tall matrix is iterated as it is, which costs more and converges elsewhere",
        )
        return Evidence(digests(found))

    return check


def _zero_matrix(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        g = call.arguments["g"].clone()
        g[0] = 0
        (found,) = answer(runtime, call.with_arguments(g=g))
        zeros = torch.zeros_like(found[0])
        same_bytes((zeros,), (found[0] + 0.0,), message="a zero matrix does not give zeros")
        if not bool(found[1].isfinite().all()):
            raise Failure("a zero matrix spoils its neighbour")
        return Evidence(digests((found,)))

    return check


# --- special values ---

_CONTAINED = {
    "LINEAR-4": "linear",
    "RMS-NORM-4": "rms_norm",
    "LAYER-NORM-3": "layer_norm",
}


def _special_cases() -> Iterator[Case]:
    for requirement, op in _CONTAINED.items():
        for v in variants(op, quick_only=True, smallest_tokens=3):
            for value in (torch.nan, torch.inf):
                yield case(requirement, "parity", v, _contained(v, value), tag=f"row-of-{value}")
    for dtype in ("fp32", "bf16"):
        v = Variant("linear", Shape({"T": 0, "K": 64, "N": 32}, quick=True), dtype=dtype)
        yield case("LINEAR-4", "parity", v, parity(v.call), tag="empty")
    for dtype in ("fp32", "bf16"):
        v = Variant("rms_norm", Shape({"T": 3, "D": 64}, quick=True), dtype=dtype)
        yield case("RMS-NORM-4", "parity", v, _zero_row(v), tag="zero-row")
        v = Variant("layer_norm", Shape({"T": 3, "D": 64}, quick=True), dtype=dtype)
        yield case("LAYER-NORM-3", "parity", v, _constant_row(v), tag="constant-row")
        v = Variant("swiglu", Shape({"T": 2, "I": 66}, quick=True), dtype=dtype)
        yield case("SWIGLU-3", "parity", v, _large_gates(v), tag="large")
    for v in variants("index_scores"):
        yield case("INDEX-SCORES-2", "parity", v, _behind_length(v), tag="behind-length")
        yield case("INDEX-SCORES-4", "parity", v, _exact_zero(v), tag="exact-zero")


def _contained(v: Variant, value: float) -> Check:
    """One row of NaN or Inf: the other rows keep their bytes, the row itself turns NaN."""

    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        clean = answer(runtime, call)
        x = call.arguments["x"].clone()
        x[1, :2] = value
        spoiled = answer(runtime, call.with_arguments(x=x))
        others = torch.arange(x.shape[0]) != 1
        same_bytes(
            tuple(part[others] for part in clean),
            tuple(part[others] for part in spoiled),
            message="a row's NaN or Inf reaches another row",
            change=f"row 1 holds {value}",
        )
        if bool(spoiled[0][1].isfinite().all()):
            raise Failure(
                f"a row that holds {value} gives finite results", hint="a clamp, or fast-math"
            )
        return Evidence(digests(spoiled))

    return check


def _zero_row(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        zeros = torch.zeros_like(call.arguments["x"])
        found = answer(runtime, call.with_arguments(x=zeros, residual=zeros))
        same_bytes(
            (zeros, zeros), tuple(f + 0.0 for f in found), message="zero rows give not zeros"
        )
        return Evidence(digests(found))

    return check


def _constant_row(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        x = torch.full_like(call.arguments["x"], 3.0)
        (found,) = answer(runtime, call.with_arguments(x=x))
        b = call.arguments["b"].tensor.to(x.dtype).expand_as(x)
        same_bytes((b.contiguous(),), (found,), message="a constant row does not give the bias")
        return Evidence(digests((found,)))

    return check


def _large_gates(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        gates = torch.tensor(
            [0.0, -0.0, 90.0, -90.0, 1e4, -1e4, 3e38, -3e38, -torch.inf, 1.0, 88.7]
        )
        gates = gates.repeat(6).to(v.torch_dtype)
        up = torch.ones(66, dtype=v.torch_dtype)
        row = torch.cat((gates, up)).expand(v.shape["T"], -1).contiguous()
        call = Call("swiglu", {"gate_up": row})
        (found,) = answer(runtime, call)
        (exact,) = call.double().reference()
        bad = found.isnan() != exact.isnan()
        far = (found.double() - exact).abs() > 2.0**-6 * exact.abs() + 2.0**-100
        if bool((bad | (far & ~exact.isnan())).any()):
            place = (bad | (far & ~exact.isnan())).nonzero()[0].tolist()
            gate = float(row[place[0], place[1]])
            got = float(found[place[0], place[1]])
            raise Failure(f"gate {gate} gives {got}, exact {float(exact[place[0], place[1]])}")
        return Evidence(digests((found,)))

    return check


def _behind_length(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        (found,) = answer(runtime, call)
        context = call.arguments["context"]
        behind = torch.arange(found.shape[1]) >= context.lengths.unsqueeze(1)
        if not bool((found[behind] == -torch.inf).all()):
            raise Failure("a column behind a token's length is not -Inf")
        if not bool((found[~behind] > -torch.inf).all()):
            raise Failure("a visible column is -Inf or NaN", hint="stale or foreign rows were read")
        return Evidence(digests((found,)))

    return check


def _exact_zero(v: Variant) -> Check:
    """Keys opposite to every query: all products are negative, scores exactly +0.0.

    Every other token has negative weights only: with them, zeros of the products become -0.0.
    """

    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        keys = call.arguments["keys"]
        visible = ~keys.rows.isnan()
        opposite = torch.where(visible, -keys.rows.abs(), keys.rows)
        w = call.arguments["w"].clone()
        w[::2] = -w[::2].abs()
        call = call.with_arguments(
            q=call.arguments["q"].abs(), w=w, keys=type(keys)(opposite, keys.page_size)
        )
        (found,) = answer(runtime, call)
        seen = torch.arange(found.shape[1]) < call.arguments["context"].lengths.unsqueeze(1)
        zeros = torch.zeros(int(seen.sum()))
        same_bytes(
            (zeros,), (found[seen],), message="not exactly +0.0 where no product is positive"
        )
        return Evidence(digests((found,)))

    return check
