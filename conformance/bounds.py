"""The oracle: exact values in float64, and how far from them a backend may be.

The coefficients are data (`bounds.yaml`, with their derivation); the magnitudes are computed here
from the inputs. Nothing is fitted to a failure.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import torch
import yaml
from torch import Tensor

from glm5_hal.conformance.call import Call
from glm5_hal.conformance.case import Evidence, Failure
from glm5_hal.conformance.compare import Difference
from glm5_hal.conformance.families.judging import digests, reject_decoys
from glm5_hal.conformance.fixing import cost as fixing_of
from glm5_hal.exact import READ, WRITE
from glm5_hal.levels import Numerics

UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}
"""Unit roundoff: half the distance of neighbours, relative."""

FLUSH = 2.0**-120


@dataclass(frozen=True)
class Coefficients:
    """One row of the table; see the head of bounds.yaml."""

    terms: float
    extra: float
    inner: float
    output: float
    why: str
    fixed: float = 0.0
    read: float = 0.0


@functools.cache
def table() -> dict[str, dict[str, Coefficients]]:
    """Coefficients by profile and op."""
    text = files("glm5_hal.conformance").joinpath("bounds.yaml").read_text()
    loaded = yaml.safe_load(text)
    return {
        profile: {op: Coefficients(**row) for op, row in rows.items()}
        for profile, rows in loaded.items()
    }


def of(
    call: Call, profile: Numerics = Numerics.FAST
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Exact results in float64 and the bound on each element's error."""
    row = table()[profile.value][call.op]
    unit = UNIT[_activation_dtype(call)]
    known = _ORACLES[call.op](_summed(call, profile))
    carried = known.carried or known.magnitude
    bound = tuple(
        (row.terms * known.terms + row.extra) * 2.0**-24 * size
        + row.inner * unit * inside
        + row.output * unit * value.abs()
        + FLUSH
        for value, size, inside in zip(known.exact, known.magnitude, carried, strict=True)
    )
    if profile is Numerics.EXACT:
        bound = tuple(b + more for b, more in zip(bound, fixing(call), strict=True))
    return known.exact, bound


def _summed(call: Call, profile: Numerics) -> Call:
    """The norm is taken of the rounded sum: in the exact profile that is the definition's own."""
    if profile is Numerics.EXACT and call.arguments.get("residual") is not None:
        return call.with_arguments(x=call.defined(profile)[1], residual=None)
    return call


def fixing(call: Call) -> tuple[Tensor, ...]:
    """What fixing and the thresholds of the exact profile add to the bound of each result."""
    row = table()[Numerics.EXACT.value][call.op]
    cost = fixing_of(call)
    return tuple(
        row.fixed * fixed + row.read * READ * moved + WRITE
        for fixed, moved in zip(cost.fixing, cost.reading, strict=True)
    )


def judge(
    call: Call,
    exact: tuple[Tensor, ...],
    bound: tuple[Tensor, ...],
    found: tuple[Tensor, ...],
    *,
    decoys: bool = True,
) -> Evidence:
    """Compare with the oracle.

    Raises:
        Failure: an element is beyond its bound, or the case would accept a wrong answer.
    """
    if decoys:
        rounded = tuple(e.to(f.dtype) for e, f in zip(exact, found, strict=True))
        reject_decoys(call, rounded, lambda decoy: worst_of(exact, bound, decoy)[0] <= 1)
    worst, number, place = worst_of(exact, bound, found)
    if worst > 1:
        want, got = exact[number][place], found[number][place]
        limit = float(bound[number][place])
        shares = [_share(*parts) for parts in zip(exact, bound, found, strict=True)]
        raise Failure(
            f"output {number} at {list(place)} is {got.item()!r}, exact {want.item()!r}: error "
            f"{abs(want.item() - got.item()):.3g} is beyond the bound {limit:.3g}",
            difference=Difference(
                number,
                place,
                repr(want.item()),
                repr(got.item()),
                None,
                sum(int((share > 1).sum()) for share in shares),
                sum(e.numel() for e in exact),
            ),
            hint=_hint(exact[number], found[number]),
        )
    return Evidence(digests(found), worst, _histogram(exact, found))


def _share(exact: Tensor, bound: Tensor, found: Tensor) -> Tensor:
    """Error as a share of the bound; infinite where finiteness itself is wrong."""
    wide = found.double()
    share = (wide - exact).abs() / bound
    same = (wide == exact) | (wide.isnan() & exact.isnan())
    return torch.where(same, 0.0, torch.where(share.isfinite(), share, torch.inf))


def worst_of(
    exact: tuple[Tensor, ...], bound: tuple[Tensor, ...], found: tuple[Tensor, ...]
) -> tuple[float, int, tuple[int, ...]]:
    """The largest error as a share of its bound, and where: (share, output, index)."""
    worst, number = 0.0, 0
    place: tuple[int, ...] = ()
    for n, (e, b, f) in enumerate(zip(exact, bound, found, strict=True)):
        if e.shape != f.shape:
            raise Failure(f"output {n} has shape {list(f.shape)}, expected {list(e.shape)}")
        if not e.numel():
            continue
        share = _share(e, b, f)
        flat = int(share.argmax())
        if float(share.flatten()[flat]) > worst:
            worst, number = float(share.flatten()[flat]), n
            place = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), e.shape))
    return worst, number, place


def _histogram(exact: tuple[Tensor, ...], found: tuple[Tensor, ...]) -> dict[int, int]:
    """Errors in units in the last place of the result's dtype, by upper edge."""
    counts: dict[int, int] = {}
    for want, got in zip(exact, found, strict=True):
        step = 2 * UNIT.get(got.dtype, 2.0**-24)
        exponent = torch.floor(torch.log2(want.abs().clamp(min=2.0**-126)))
        ulps = (got.double() - want).abs() / (step * torch.exp2(exponent))
        edges = torch.exp2(torch.ceil(torch.log2(ulps.clamp(min=0.5)))).clamp(max=2**30)
        for edge, count in zip(*edges[edges.isfinite()].unique(return_counts=True), strict=True):
            key = int(edge) if edge >= 1 else 0
            counts[key] = counts.get(key, 0) + int(count)
    return dict(sorted(counts.items()))


def _hint(exact: Tensor, found: Tensor) -> str:
    if bool((found == 0).all()):
        return "all zeros: not computed, or not written"
    ratio = (found.double() / exact)[(exact != 0) & found.isfinite()]
    if ratio.numel() and float(ratio.std()) < 0.01 and abs(float(ratio.mean()) - 1) > 1e-3:
        return f"everything is {float(ratio.mean()):.4g} times too large: a scale is off"
    return "too few bits in an operand or a sum: a narrowed dot, or a narrow accumulator"


def _activation_dtype(call: Call) -> torch.dtype:
    for value in call.arguments.values():
        if isinstance(value, Tensor) and value.dtype in UNIT:
            return value.dtype
    raise ValueError(f"{call.op} has no activation")


# --- oracles: (exact results, magnitudes, terms K) of a call ---


@dataclass(frozen=True)
class Oracle:
    """What is known of a call.

    Attributes:
        exact: results in float64.
        magnitude: M of each result.
        terms: K.
        carried: magnitude for `inner`, where it is another than M.
    """

    exact: tuple[Tensor, ...]
    magnitude: tuple[Tensor, ...]
    terms: int
    carried: tuple[Tensor, ...] | None = None


def _linear(call: Call) -> Oracle:
    x, w = call.arguments["x"].double(), call.arguments["w"].tensor.double()
    return Oracle((x @ w.T,), (x.abs() @ w.abs().T,), x.shape[1])


def _head_linear(call: Call) -> Oracle:
    x, w = call.arguments["x"].double(), call.arguments["w"].tensor.double()
    form = "thk,hnk->thn"
    return Oracle((torch.einsum(form, x, w),), (torch.einsum(form, x.abs(), w.abs()),), x.shape[2])


def _absolute(call: Call) -> Call:
    """The call with every float argument replaced by its absolute value."""
    return Call(call.op, {name: _abs(value) for name, value in call.arguments.items()})


def _abs(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.abs()
    if hasattr(value, "role"):
        return type(value)(value.role, value.tensor.abs())
    return value


def _by_reference(terms: Callable[[Call], int]) -> Callable[[Call], Oracle]:
    """Oracle of an op that is linear in each argument: the reference on absolute values."""

    def oracle(call: Call) -> Oracle:
        wide = call.double()
        return Oracle(wide.reference(), _absolute(wide).reference(), terms(call))

    return oracle


def _rms_norm(call: Call) -> Oracle:
    a = call.arguments
    h = a["x"] if a["residual"] is None else (a["x"].double() + a["residual"].double())
    h = h.to(a["x"].dtype)  # the norm is taken of the rounded sum
    wide = Call("rms_norm", {**a, "x": h.double(), "residual": None}).double()
    y, _ = wide.reference()
    return Oracle((y, h.double()), (y.abs(), torch.zeros_like(y)), h.shape[1])


def _layer_norm(call: Call) -> Oracle:
    a = call.double().arguments
    x, w, b = a["x"], a["w"].tensor, a["b"].tensor
    centred = x - x.mean(-1, keepdim=True)
    sigma = (centred.square().mean(-1, keepdim=True) + a["eps"]).sqrt()
    spread = (x.abs() + x.abs().mean(-1, keepdim=True)) / sigma * w.abs()
    magnitude = spread * (1 + (centred / sigma).abs()) + b.abs()
    return Oracle(call.double().reference(), (magnitude,), x.shape[1])


def _rope(call: Call) -> Oracle:
    a = call.arguments
    cos, sin = a["table"].tensor[a["positions"].long()].double().unsqueeze(1).chunk(2, -1)
    x = a["x"].double().abs()
    even, odd = x[..., 0::2], x[..., 1::2]
    magnitude = torch.stack(
        (even * cos.abs() + odd * sin.abs(), odd * cos.abs() + even * sin.abs()), dim=-1
    ).flatten(-2)
    return Oracle(call.double().reference(), (magnitude,), 0)


def _swiglu(call: Call) -> Oracle:
    (y,) = call.double().reference()
    gate = call.arguments["gate_up"].double().chunk(2, -1)[0]
    return Oracle((y,), (y.abs() * (1 + gate.abs()),), 0)


def _attention(call: Call) -> Oracle:
    """latent_attention: M = (1 + 2 * magnitude of the scores) * sum of weights * |rows|."""
    a = call.double().arguments
    latent = a["q_latent"].shape[-1]
    query = torch.cat((a["q_latent"], a["q_rope"]), -1)
    value = torch.empty_like(a["q_latent"])
    magnitude = torch.empty_like(value)
    longest = 0
    for token, rows in enumerate(_visible(call)):
        scores = query[token] @ rows.T * a["scale"]
        size = (query[token].abs() @ rows.abs().T * a["scale"]).amax(-1, keepdim=True)
        weights = torch.softmax(scores, -1)
        value[token] = weights @ rows[:, :latent]
        magnitude[token] = (1 + 2 * size) * (weights @ rows[:, :latent].abs())
        longest = max(longest, rows.shape[0])
    return Oracle((value,), (magnitude,), longest + query.shape[-1])


def _visible(call: Call) -> list[Tensor]:
    """The cache rows that each token sees, float64."""
    a = call.arguments
    found = []
    for token in range(a["q_rope"].shape[0]):
        slots = a["context"].slots(token, a["cache"].page_size, a["indices"])
        found.append(a["cache"].rows[slots].double())
    return found


def _mla(call: Call) -> Oracle:
    """The absorbed form on absolute values, from the inside out."""
    a = call.double().arguments
    w_uk, w_uv = a["w_uk"].tensor, a["w_uv"].tensor
    (value,) = Call("mla", a).reference()
    magnitude = torch.empty_like(value)
    latent = torch.einsum("thn,hcn->thc", a["q_nope"].abs(), w_uk.abs())
    exact = torch.einsum("thn,hcn->thc", a["q_nope"], w_uk)
    longest = 0
    for token, rows in enumerate(_visible(call)):
        query = torch.cat((exact[token], a["q_rope"][token]), -1)
        size_query = torch.cat((latent[token], a["q_rope"][token].abs()), -1)
        weights = torch.softmax(query @ rows.T * a["scale"], -1)
        size = (size_query @ rows.abs().T * a["scale"]).amax(-1, keepdim=True)
        content = weights @ rows[:, : w_uk.shape[1]].abs()
        spread = torch.einsum("hc,hvc->hv", content, w_uv.abs())
        magnitude[token] = (1 + 2 * size) * spread
        longest = max(longest, rows.shape[0])
    return Oracle((value,), (magnitude,), longest + sum(w_uk.shape[1:]))


def _index_scores(call: Call) -> Oracle:
    wide = call.double()
    a = wide.arguments
    exact = wide.reference()[0]
    magnitude = torch.zeros_like(exact)
    for token in range(exact.shape[0]):
        rows = a["keys"].rows[a["context"].slots(token, a["keys"].page_size)]
        dots = a["q"][token].abs() @ rows.abs().T
        magnitude[token, : rows.shape[0]] = (a["w"][token].abs() * a["scale"]) @ dots
    heads, width = a["q"].shape[1:]
    return Oracle((exact,), (magnitude,), heads + width)


def _route(call: Call) -> Oracle:
    ids, weights = call.reference()
    own = torch.sigmoid(call.arguments["logits"].double()).gather(1, ids.long())
    if call.arguments["normalize"]:
        own = own / own.sum(-1, keepdim=True)
    exact = own * call.arguments["scale"]
    return Oracle((ids.double(), exact), (torch.zeros_like(exact), exact.abs()), weights.shape[1])


def _experts(call: Call) -> Oracle:
    """Errors carried from gate_up through the activation and the second product."""
    a = call.double().arguments
    unit = UNIT[call.arguments["x"].dtype]
    gate_up, down = a["w_gate_up"].tensor, a["w_down"].tensor
    value = a["shared"].clone()
    size, spread = a["shared"].abs(), torch.zeros_like(value)
    for token, ids in enumerate(a["ids"].tolist()):
        x = a["x"][token]
        for slot, expert in enumerate(ids):
            w = a["weights"][token, slot]
            gate, up = (gate_up[expert] @ x).chunk(2)
            # relative to one rounding: own rounding, and that of the sums behind it
            sums = (gate_up[expert].abs() @ x.abs()) * x.shape[0] * 2.0**-23 / unit
            error_gate = gate.abs() + sums[: gate.shape[0]]
            error_up = up.abs() + sums[gate.shape[0] :]
            hidden = torch.nn.functional.silu(gate) * up
            carried = (
                hidden.abs() * (2 + gate.abs() * 2.0**-16)
                + 1.1 * up.abs() * error_gate
                + torch.nn.functional.silu(gate).abs() * error_up
            )
            row = down[expert] @ hidden
            value[token] += w * row
            size[token] += w.abs() * (down[expert].abs() @ hidden.abs())
            spread[token] += w.abs() * (down[expert].abs() @ carried + row.abs())
    return Oracle((value,), (size,), down.shape[2] + a["ids"].shape[1], (spread,))


def _muon(call: Call) -> Oracle:
    (value,) = call.double().reference()
    length = max(value.shape[1:])
    steps = call.arguments["steps"]
    norm = value.norm(dim=(1, 2), keepdim=True) / (value[0].numel() ** 0.5)
    size = steps * 3.4445**steps * length**-0.5 * norm.expand_as(value)
    return Oracle((value,), (size,), length)


_ORACLES: dict[str, Callable[[Call], Oracle]] = {
    "linear": _linear,
    "head_linear": _head_linear,
    "grouped_linear": _by_reference(lambda call: int(call.arguments["x"].shape[1])),
    "rms_norm": _rms_norm,
    "layer_norm": _layer_norm,
    "rope": _rope,
    "swiglu": _swiglu,
    "latent_attention": _attention,
    "mla": _mla,
    "mla_expanded": _mla,
    "index_scores": _index_scores,
    "moe_route": _route,
    "moe_combine": _by_reference(lambda call: int(call.arguments["weights"].shape[1])),
    "moe_experts": _experts,
    "muon_orthogonalize": _muon,
}
