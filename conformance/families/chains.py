"""What elementwise arithmetic and orders are made of, where one mistake changes a byte."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from glm5_hal import PagedContext, Runtime, WeightRole
from glm5_hal.conformance import data
from glm5_hal.conformance.call import CacheValue, Call, WeightValue, answer
from glm5_hal.conformance.case import Case, Check, Evidence
from glm5_hal.conformance.families.blocks import block
from glm5_hal.conformance.families.judging import (
    case,
    in_exact,
    raw_digests,
    recorded,
    same_bytes,
)
from glm5_hal.conformance.shapes import Shape
from glm5_hal.conformance.subjects import DTYPES, Variant, variants
from glm5_hal.exact import READ, WRITE
from glm5_hal.levels import Level

PAGE = 16


def cases() -> Iterator[Case]:
    """Thresholds, roundings, functions, then orders and the steps of each op."""
    yield from _thresholds()
    yield from _functions()
    yield from _attention()
    yield from _steps()


# --- thresholds ---


def _thresholds() -> Iterator[Case]:
    lost = "operands below 2^-50 read as zero, one by one, before anything else"
    yield block("EXACT-READ-1", "rope", "thresholds", _rope_around(READ, 2.0**60), lost)
    yield block("EXACT-READ-1", "swiglu", "thresholds", _gates_around_read, lost)
    yield block("EXACT-READ-1", "moe_combine", "thresholds", _rows_around_read, lost)
    small = "results below 2^-100 are +0, and so are zeros of either sign"
    yield block("EXACT-WRITE-1", "rope", "thresholds", _rope_around(READ, 2.0**-50), small)
    yield block("EXACT-WRITE-1", "swiglu", "thresholds", _gates_around_write, small)
    yield block("EXACT-WRITE-1", "moe_combine", "negative-zeros", _negative_zeros, small)
    fused = "a * b + c in one rounding instead of two"
    for dtype in DTYPES:
        v = Variant("rope", Shape({"T": 65, "H": 3, "R": 16, "P": 512}, quick=True), dtype=dtype)
        yield block("EXACT-ROUNDING-1", "rope", f"fused-{dtype}", v.call, fused)
        v = Variant("moe_combine", Shape({"T": 65, "D": 64, "k": 8}, quick=True), dtype=dtype)
        yield block("EXACT-ROUNDING-1", "moe_combine", f"fused-{dtype}", v.call, fused)


def _around(value: float) -> Tensor:
    """The value, its neighbours, and farther ones, of both signs."""
    middle = torch.tensor(value)
    up, down = torch.tensor(torch.inf), torch.tensor(0.0)
    near = [torch.nextafter(middle, down), middle, torch.nextafter(middle, up)]
    whole = torch.stack([*near, middle / 2, middle * 0.75, middle * 1.5, middle * 4, down])
    return torch.cat((whole, -whole))


def _rope_around(value: float, other: float) -> Callable[[], Call]:
    """Pairs of such values, against a table of 1, `other` and such values."""

    def build() -> Call:
        edge = _around(value)
        pairs = torch.cartesian_prod(edge, edge).reshape(-1, 1, 2)
        table = torch.cartesian_prod(torch.cat((edge, torch.tensor([1.0, other]))), edge)
        table = torch.cat((table, table.flip(-1), torch.tensor([[other, other]])))
        positions = torch.arange(pairs.shape[0]) * 7 % table.shape[0]
        arguments = {
            "x": pairs.contiguous(),
            "positions": positions.int(),
            "table": WeightValue(WeightRole.ROPE_TABLE, table.contiguous()),
            "interleaved": True,
        }
        return Call("rope", arguments)

    return build


def _swiglu(gate: Tensor, up: Tensor) -> Call:
    return Call("swiglu", {"gate_up": torch.cat((gate, up), dim=-1)})


def _gates_around_read() -> Call:
    gate = torch.cat((_around(READ), torch.full((16,), 2.0**40)))
    up = torch.cat((torch.full((16,), 2.0**40), _around(READ)))
    return _swiglu(gate[None], up[None])


def _gates_around_write() -> Call:
    """Products of 2^-50 and 2^-49, half of which sigmoid takes; gates whose sigmoid is zero."""
    edge = _around(2.0 * READ)
    gate, up = torch.cartesian_prod(edge, _around(READ)).T
    far = -torch.arange(69.0, 93.0)  # e^-69 is 2^-99.5
    return _swiglu(torch.cat((gate, far))[None], torch.cat((up, torch.ones_like(far)))[None])


def _combine(rows: Tensor, weights: Tensor, shared: Tensor | None) -> Call:
    """Rows [T * k, D] that stand in slot order."""
    slots = torch.arange(rows.shape[0], dtype=torch.int32)
    return Call("moe_combine", {"rows": rows, "slots": slots, "weights": weights, "shared": shared})


def _rows_around_read() -> Call:
    edge = _around(READ)
    rows = torch.stack((edge, torch.full_like(edge, 2.0**40)))  # one token, two slots
    weights = torch.tensor([[2.0**40, 0.75 * READ]])
    return _combine(torch.cat((rows, rows)), torch.cat((weights, weights * 2)), edge.repeat(2, 1))


def _negative_zeros() -> Call:
    """Sums that are -0 where nothing turns them, and such that fall below 2^-100."""
    rows = torch.full((2, 4), -0.0)
    rows[1] = torch.tensor([-(2.0**-50), 2.0**-50, -0.0, -(2.0**-49)])
    return _combine(rows, torch.tensor([[1.0, READ]]), torch.full((1, 4), -0.0))


# --- division, root, exponentials ---


def _functions() -> Iterator[Case]:
    near = "an approximate reciprocal or root: off by one in the last place"
    yield block("EXACT-DIVIDE-1", "moe_route", "quotients", _quotients, near)
    yield block("EXACT-DIVIDE-1", "rms_norm", "roots", _roots, near)
    yield block("EXACT-DIVIDE-1", "layer_norm", "roots", _layer_roots, near)
    own = "the contract's sequence of operations, not a library's function"
    yield block("EXACT-EXP-1", "swiglu", "sweep", _exp_sweep, own)
    yield block("EXACT-SIGMOID-1", "moe_route", "sweep", _sigmoid_sweep, own)
    yield block("EXACT-SIGMOID-1", "swiglu", "sweep", _sigmoid_gates, own)
    yield block("EXACT-EXP2-1", "latent_attention", "sweep", _exp2_sweep, own)


def _route(logits: Tensor, bias: Tensor, k: int, **others: object) -> Call:
    arguments = {
        "logits": logits,
        "bias": WeightValue(WeightRole.VECTOR, bias),
        "k": k,
        "n_group": 1,
        "topk_group": 1,
        "normalize": False,
        "scale": 1.0,
    }
    return Call("moe_route", {**arguments, **others})


def _quotients() -> Call:
    logits = data.normal("chains/quotients", (512, 8), torch.float32, 2.0)
    return _route(logits, torch.zeros(8), 8, normalize=True, scale=2.5)


def _roots() -> Call:
    x = data.normal("chains/roots", (1024, 6), torch.float32)
    w = WeightValue(WeightRole.VECTOR, torch.ones(6))
    return Call("rms_norm", {"x": x, "w": w, "eps": 1e-5, "residual": None})


def _layer_roots() -> Call:
    x = data.normal("chains/layer-roots", (1024, 6), torch.float32)
    w = WeightValue(WeightRole.VECTOR, torch.ones(6))
    b = WeightValue(WeightRole.VECTOR, torch.zeros(6))
    return Call("layer_norm", {"x": x, "w": w, "b": b, "eps": 1e-6})


def _exp_sweep() -> Call:
    """Negative gates from 0 to the end of the range and beyond, and the neighbours of -80."""
    gate = -torch.arange(0.0, 100.0, 1 / 64)
    edge = torch.nextafter(torch.tensor(-80.0), torch.tensor([-90.0, -70.0]))
    halves = -(torch.arange(1.0, 110.0) + 0.5) * 0.6931472  # where n turns
    gate = torch.cat((gate, edge, torch.tensor([-80.0]), halves))
    return _swiglu(gate[None], torch.full_like(gate, 2.0**20)[None])


def _sigmoid_sweep() -> Call:
    """Every expert is chosen, so that the weights are the sigmoids of all logits."""
    logits = torch.arange(-24.0, 24.0, 1 / 128).reshape(24, 256) + 1e-3
    return _route(logits, torch.zeros(256), 256)


def _sigmoid_gates() -> Call:
    gate = torch.cat((torch.arange(-30.0, 30.0, 1 / 32), torch.tensor([-0.0, 1e4, 3e38, 88.8])))
    return _swiglu(gate[None], torch.ones_like(gate)[None])


def _exp2_sweep() -> Call:
    """Two rows, whose scores are 0 and a head's own one; the result is a quotient of powers."""
    heads = 512
    scores = (torch.arange(heads) - heads // 2) * 0.04 + 0.003
    q = torch.stack((torch.zeros(heads), scores), dim=-1)[None]
    return _attend(q, torch.zeros(1, heads, 2), torch.eye(2), torch.zeros(2, 2), scale=1.0)


# --- attention ---


def _attend(
    q_latent: Tensor,
    q_rope: Tensor,
    content: Tensor,
    turned: Tensor,
    *,
    scale: float = 0.25,
    order: Tensor | None = None,
) -> Call:
    """Tokens that all see the same rows, in `order` where one is given."""
    rows = torch.cat((content, turned), dim=-1)
    rows = rows if order is None else rows[order]
    count, pages = rows.shape[0], -(-rows.shape[0] // PAGE)
    store = torch.full((pages * PAGE, rows.shape[1]), torch.nan, dtype=rows.dtype)
    store[:count] = rows
    tokens = q_latent.shape[0]
    context = PagedContext(
        torch.arange(pages, dtype=torch.int32)[None],
        torch.zeros(tokens, dtype=torch.int32),
        torch.full((tokens,), count, dtype=torch.int32),
        count,
    )
    arguments = {
        "q_latent": q_latent.to(rows.dtype),
        "q_rope": q_rope.to(rows.dtype),
        "cache": CacheValue(store, PAGE),
        "context": context,
        "scale": scale,
        "indices": None,
    }
    return Call("latent_attention", arguments)


def _attention() -> Iterator[Case]:
    for dtype in DTYPES:
        parts = "each of the four parts has an exponent of its own"
        yield _attending("ATTENTION-EXACT-1", f"parts-{dtype}", dtype, _parts, parts)
        clamp = "scores end at 2^20, and one that is not finite is NaN for its head alone"
        yield _attending("ATTENTION-EXACT-1", f"clamp-{dtype}", dtype, _far_scores, clamp)
        late = "a running maximum that is rescaled, or one a split: integers take the last one"
        yield _attending("ATTENTION-EXACT-2", f"growing-{dtype}", dtype, _growing, late)
        yield _attending("ATTENTION-EXACT-2", f"lifted-{dtype}", dtype, _lifted, late)
        v = Variant("latent_attention", _PERMUTED, dtype=dtype)
        aspect = Level.SCHEDULE_INVARIANT.value
        check = _permuted(dtype)
        yield in_exact(
            case("ATTENTION-EXACT-3", "invariance", v, check, aspect=aspect, tag="permuted")
        )
        once = "one reciprocal and one product, each rounded; not a quotient"
        yield _attending("ATTENTION-EXACT-3", f"quotient-{dtype}", dtype, _growing, once)


_PERMUTED = Shape({"T": 2, "H": 4, "C": 32, "R": 8, "S": 300, "k": 0, "page": PAGE}, quick=True)


def _attending(
    requirement: str, tag: str, dtype: str, build: Callable[[str], Call], hint: str
) -> Case:
    return block(requirement, "latent_attention", tag, lambda: build(dtype), hint)


def _drawn(name: str, dtype: str, *shape: int, scale: float = 1.0) -> Tensor:
    return data.normal(f"chains/{name}", shape, DTYPES[dtype], scale)


def _parts(dtype: str) -> Call:
    """Rotated parts a thousand times as large as latent ones, in the query and in the rows."""
    return _attend(
        _drawn("parts-q", dtype, 2, 4, 32),
        _drawn("parts-r", dtype, 2, 4, 8, scale=1000.0),
        _drawn("parts-c", dtype, 40, 32),
        _drawn("parts-t", dtype, 40, 8, scale=2.0**-12),
    )


def _far_scores(dtype: str) -> Call:
    """Scores far beyond 2^20 of either sign; one head's overflow."""
    q = _drawn("far-q", dtype, 2, 4, 32)
    q[0, 1] *= 2.0**30
    q[0, 2] = 3.0e38
    q[1, 3] *= -(2.0**19)
    return _attend(
        q, _drawn("far-r", dtype, 2, 4, 8), 4 * _drawn("far-c", dtype, 40, 32), _turned(dtype)
    )


def _turned(dtype: str) -> Tensor:
    return _drawn("turned", dtype, 40, 8)


def _growing(dtype: str) -> Call:
    """Scores that grow from row to row by about a third of a power of two."""
    content = _drawn("growing-c", dtype, 200, 32)
    content[:, 0] = torch.arange(200).to(content.dtype) * 0.25
    q = 0.1 * _drawn("growing-q", dtype, 2, 4, 32)
    q[..., 0] = 4.0
    return _attend(
        q, _drawn("growing-r", dtype, 2, 4, 8), content, _drawn("growing-t", dtype, 200, 8)
    )


def _lifted(dtype: str) -> Call:
    """Rows of very different size: the largest weight and the largest term lie apart."""
    content = _drawn("lifted-c", dtype, 96, 32)
    content *= 2.0 ** (torch.arange(96) % 25 - 12).unsqueeze(1).to(content.dtype)
    q = _drawn("lifted-q", dtype, 2, 4, 32) * 2.0**-6
    return _attend(q, _drawn("lifted-r", dtype, 2, 4, 8), content, _drawn("lifted-t", dtype, 96, 8))


def _permuted(dtype: str) -> Check:
    """The rows of a sequence in any order: sums of integers do not see it."""

    def check(runtime: Runtime) -> Evidence:
        shape = _PERMUTED
        rows, heads, latent, rope = (shape[name] for name in ("S", "H", "C", "R"))
        parts = (
            _drawn("permuted-q", dtype, shape["T"], heads, latent),
            _drawn("permuted-r", dtype, shape["T"], heads, rope),
            _drawn("permuted-c", dtype, rows, latent),
            _drawn("permuted-t", dtype, rows, rope),
        )
        found = answer(runtime, _attend(*parts))
        orders = (
            ("rows in reverse", torch.arange(rows - 1, -1, -1)),
            ("rows permuted", data.permutation("chains/order", rows)),
        )
        for what, order in orders:
            same_bytes(
                found,
                answer(runtime, _attend(*parts, order=order)),
                message="the order of the rows reaches the result",
                change=what,
                hint="a running maximum, or sums that are rounded on the way",
                any_nan=False,
            )
        return Evidence(raw_digests(found))

    return check


# --- the other steps of ops ---


def _steps() -> Iterator[Case]:
    order = "heads in another order, or read() and scale at another place"
    shape = Shape({"T": 9, "H": 32, "D": 16, "S": 70, "page": PAGE}, quick=True)
    for dtype in DTYPES:
        yield _step("INDEX-SCORES-EXACT-2", Variant("index_scores", shape, dtype=dtype), order)
        for op, requirement in _LATER.items():
            for v in variants(op, kinds=("normal", "outlier60"), dtypes=(dtype,), quick_only=True):
                yield _step(requirement, v, _WHY[requirement])
    yield block("COMBINE-EXACT-1", "moe_combine", "order", _order_matters, "slots in their order")
    yield block("MUON-EXACT-3", "muon_orthogonalize", "nan", _spoiled, "NaN for all of the matrix")
    yield block(
        "ROUTE-EXACT-1", "moe_route", "close", _close_choices, "s + bias is rounded, then compared"
    )
    yield block("ROUTE-EXACT-1", "moe_route", "groups", _close_groups, "the sum of two is rounded")
    for v in variants("moe_route", dtypes=("fp32",), quick_only=True):
        yield _step("ROUTE-EXACT-2", v, "s / total first, then times scale; total in slot order")
    for tag, build in (("tails", _tails), ("degenerate", _degenerate), ("cut", _cuts)):
        requirement = "SAMPLE-EXACT-1" if tag == "degenerate" else "SAMPLE-EXACT-2"
        yield block(requirement, "sample", tag, build, "integers, compared exactly")


_LATER = {
    "rms_norm": "RMS-NORM-EXACT-2",
    "layer_norm": "LAYER-NORM-EXACT-2",
    "muon_orthogonalize": "MUON-EXACT-2",
}
_WHY = {
    "RMS-NORM-EXACT-2": "(h * r) * w, the sum of squares exact",
    "LAYER-NORM-EXACT-2": "(c * r) * w + b, the centred row fixed once more",
    "MUON-EXACT-2": "every product of rows fixed anew; b A + c A A in three roundings",
}


def _step(requirement: str, v: Variant, hint: str) -> Case:
    """A later requirement of an op, on a variant of its own call."""
    return in_exact(case(requirement, "parity", v, recorded(v.call, hint), tag="step"))


def _order_matters() -> Call:
    """Terms of sizes 2^0 to 2^26 in each order of slots: float32 sums see it."""
    rows = torch.ones(48, 8) + data.normal("chains/rows", (48, 8), torch.float32, 0.1)
    sizes = torch.tensor([[0, 13, 26, 7], [26, 13, 0, 7], [7, 26, 0, 13]]).repeat(4, 1)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])
    return _combine(rows, 2.0**sizes * signs, torch.ones(12, 8))


def _spoiled() -> Call:
    g = data.normal("chains/muon", (4, 8, 12), torch.float32)
    g[1, 2, 3] = torch.nan
    g[2, 0, 0] = torch.inf
    return Call("muon_orthogonalize", {"g": g, "steps": 2})


def _close_choices() -> Call:
    """Scores one unit apart that a bias of 4 makes equal: then the lowest index wins."""
    steps = data.integers("chains/close", (64, 16), 0, 4)
    logits = 1.0 + steps.float() * 2.0**-21
    return _route(logits, torch.full((16,), 4.0), 4)


def _close_groups() -> Call:
    """Groups whose two best sum to nearly the same."""
    steps = data.integers("chains/groups", (64, 32), 0, 64)
    logits = 0.5 + steps.float() * 2.0**-18
    return _route(logits, torch.full((32,), 2.0), 4, n_group=8, topk_group=3, normalize=True)


def _sample(logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> Call:
    arguments = {"logits": logits, "temperature": temperature, "top_p": top_p, "draws": draws}
    return Call("sample", arguments)


def _tails() -> Call:
    """A thousand draws of a distribution with a long tail of equal, tiny weights."""
    rows = 1024
    logits = data.normal("chains/tails", (1, 257), torch.float32, 3.0)
    logits[:, 128:] = -9.0
    draws = data.integers("chains/draws", (rows,), 0, 1 << 24)
    top_p = torch.linspace(0.01, 1.0, rows)
    return _sample(logits.repeat(rows, 1), torch.full((rows,), 0.7), top_p, draws)


def _degenerate() -> Call:
    """Temperatures around 2^-50 and not finite; rows with NaN, +Inf, -Inf alone, one number."""
    logits = data.normal("chains/degenerate", (11, 33), torch.float32)
    logits[3, 7] = torch.nan
    logits[4, 9] = torch.inf
    logits[5] = -torch.inf
    logits[6, :32] = -torch.inf
    logits[7, ::2] = -torch.inf
    below = torch.nextafter(torch.tensor(READ), torch.tensor(0.0))
    heat = torch.full((11,), 1.0)
    heat[9:] = torch.tensor([torch.inf, torch.nan])
    heat[:3] = torch.stack((below, torch.tensor(READ), torch.tensor(WRITE)))
    draws = data.integers("chains/degenerate-draws", (11,), 0, 1 << 24)
    return _sample(logits, heat, torch.full((11,), 0.95), draws)


def _cuts() -> Call:
    """top_p at the very mass before an id, just below and just above; extreme draws."""
    quarter = torch.tensor([0.25, 0.5, 0.75, 1.0])
    steps = torch.tensor([-1.0, 0.0, 1.0]) * 2.0**-24
    top_p = (quarter.unsqueeze(1) + steps).flatten().clamp(max=1.0).repeat(3)
    ends = torch.tensor([0, 1 << 23, (1 << 24) - 1], dtype=torch.int32)
    draws = ends.repeat_interleave(12)
    return _sample(torch.zeros(36, 4), torch.ones(36), top_p, draws)
