"""What fixing to integers and the thresholds of elementwise operations may cost, by op.

A vector fixed with n digits keeps its elements to half a unit of 2^(e - 8n + 2), where 2^e is at
most twice its largest magnitude: each to 2^-22 (3 digits) or 2^-14 (2 digits) of that magnitude.
The functions here carry this through an op to first order, in float64, from the inputs alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from glm5_hal.conformance.call import Call
from glm5_hal.exact import ACTIVATION_DIGITS, digits_of

_STEP = {digits: 2.0 ** (2 - 8 * digits) for digits in (2, 3)}
"""Largest error of an element, as a share of its vector's largest magnitude."""


@dataclass(frozen=True)
class Cost:
    """Of each result of an op.

    Attributes:
        fixing: error by fixing, to first order.
        reading: how far a result moves with its operands: times 2^-50 it is the error of reading
            smaller ones as zero.
    """

    fixing: tuple[Tensor, ...]
    reading: tuple[Tensor, ...]


def cost(call: Call) -> Cost:
    """What the exact profile's arithmetic may cost a call."""
    return _COSTS[call.op](call)


def _largest(x: Tensor) -> Tensor:
    """Largest magnitude of each vector, [..., 1]; zero where there is none."""
    return x.abs().amax(-1, keepdim=True) if x.shape[-1] else x.abs().sum(-1, keepdim=True)


def _products(x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """Error of products [..., M, N] of x [..., M, K] with y [..., N, K] kept in `dtype`."""
    mine = _STEP[ACTIVATION_DIGITS] * _largest(x) * y.abs().sum(-1).unsqueeze(-2)
    theirs = _STEP[digits_of(dtype)] * x.abs().sum(-1, keepdim=True) * _largest(y).mT
    return mine + theirs


def _only(fixing: Tensor, reading: Tensor | None = None) -> Cost:
    return Cost((fixing,), (torch.zeros_like(fixing) if reading is None else reading,))


def _linear(call: Call) -> Cost:
    x, w = call.arguments["x"].double(), call.arguments["w"].tensor
    return _only(_products(x, w.double(), w.dtype))


def _head_linear(call: Call) -> Cost:
    x, w = call.arguments["x"].double(), call.arguments["w"].tensor
    return _only(_products(x.transpose(0, 1), w.double(), w.dtype).transpose(0, 1))


def _grouped_linear(call: Call) -> Cost:
    x, w = call.arguments["x"].double(), call.arguments["w"].tensor
    offsets = call.arguments["offsets"].long()
    expert = torch.repeat_interleave(torch.arange(w.shape[0]), offsets.diff())
    error = torch.zeros(x.shape[0], w.shape[1], dtype=torch.float64)
    for number in expert.unique():
        mine = expert == number
        error[mine] = _products(x[mine], w[number].double(), w.dtype)
    return _only(error)


def _rms_norm(call: Call) -> Cost:
    """A relative error of the mean square moves the result by half of it."""
    wide = call.double().arguments
    h = wide["x"] if wide["residual"] is None else wide["x"] + wide["residual"]
    squares = h.square().sum(-1, keepdim=True) + h.shape[-1] * wide["eps"]
    inverse = (squares / h.shape[-1]).rsqrt()
    y = (h * inverse * wide["w"].tensor).abs()
    share = _STEP[ACTIVATION_DIGITS] * _largest(h) * h.abs().sum(-1, keepdim=True) / squares
    reading = inverse * wide["w"].tensor.abs() + h.abs() * inverse
    return Cost((y * share, torch.zeros_like(h)), (reading, torch.full_like(h, 2.0)))


def _layer_norm(call: Call) -> Cost:
    """The row is fixed before it is centred and again after; mean and values carry the first."""
    wide = call.double().arguments
    x, w, eps = wide["x"], wide["w"].tensor.abs(), wide["eps"]
    centred = x - x.mean(-1, keepdim=True)
    sigma = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    value = (centred / sigma).abs()
    first = 2 * _STEP[ACTIVATION_DIGITS] * _largest(x)
    second = _STEP[ACTIVATION_DIGITS] * (_largest(centred) + first)
    error = w / sigma * (first + value * (first + second))
    return _only(error, w / sigma + value + 1)


def _rope(call: Call) -> Cost:
    x = call.arguments["x"].double()
    size = _largest(x).expand_as(x)
    return _only(torch.zeros_like(x), 2 * size + 2)


def _swiglu(call: Call) -> Cost:
    gate, up = call.arguments["gate_up"].double().abs().chunk(2, -1)
    return _only(torch.zeros_like(gate), gate + up)


def _attended(
    scores: Tensor, error: Tensor, content: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Error of attention [H, C], and sums of weights times |rows|.

    Weights move by twice the error of a score, relatively. As integers they are kept to half a
    unit of 2^-21 of the largest 2^a times 2^e of its row, both at most twice (times root 2) what
    they stand for; their sum to half a unit of 2^-23 each.
    """
    weights = torch.softmax(scores, -1)
    largest = _largest(content).squeeze(-1)
    sums = weights @ content.abs()
    rows = (content.abs() / largest.clamp(min=2.0**-126).unsqueeze(-1)).sum(0)
    kept = 2.0**-20.5 * (weights * largest).amax(-1, keepdim=True) * rows
    mass = content.shape[0] * 2.0**-23.5 * weights.amax(-1, keepdim=True) * sums
    fixing = _STEP[digits_of(dtype)] * (weights @ largest).unsqueeze(-1)
    return 2 * error * sums + kept + mass + fixing, sums


def _score_error(
    parts: tuple[Tensor, Tensor], rows: tuple[Tensor, Tensor], dtype: torch.dtype
) -> Tensor:
    """Largest error of a head's scores before the scale, [H, 1]: two products, fixed apart."""
    pairs = zip(parts, rows, strict=True)
    return sum((_products(q, r, dtype) for q, r in pairs), torch.zeros(())).amax(-1, keepdim=True)


def _latent_attention(call: Call) -> Cost:
    a, dtype = call.double().arguments, call.arguments["cache"].rows.dtype
    latent = a["q_latent"].shape[-1]
    error = torch.empty_like(a["q_latent"])
    for token in range(error.shape[0]):
        rows = _visible(call, token)
        query = a["q_latent"][token], a["q_rope"][token]
        parts = rows[:, :latent], rows[:, latent:]
        scores = (query[0] @ parts[0].T + query[1] @ parts[1].T) * a["scale"]
        moved = _score_error(query, parts, dtype) * a["scale"]
        error[token] = _attended(scores, moved, parts[0], dtype)[0]
    return _only(error)


def _visible(call: Call, token: int) -> Tensor:
    """The cache rows that a token sees, float64."""
    a = call.arguments
    rows: Tensor = a["cache"].rows[a["context"].slots(token, a["cache"].page_size, a["indices"])]
    return rows.double()


def _mla(call: Call) -> Cost:
    """The absorbed query, the attention, and the last product, from the inside out."""
    a, kept = call.double().arguments, call.arguments["cache"].rows.dtype
    w_uk, w_uv = a["w_uk"].tensor, a["w_uv"].tensor
    dtypes = call.arguments["w_uk"].tensor.dtype, call.arguments["w_uv"].tensor.dtype
    queries = torch.einsum("thn,hcn->thc", a["q_nope"], w_uk)
    query_error = _products(a["q_nope"].transpose(0, 1), w_uk, dtypes[0]).transpose(0, 1)
    error = torch.empty(*queries.shape[:2], w_uv.shape[1], dtype=torch.float64)
    for token in range(error.shape[0]):
        rows = _visible(call, token)
        parts = rows[:, : w_uk.shape[1]], rows[:, w_uk.shape[1] :]
        query = queries[token], a["q_rope"][token]
        scores = (query[0] @ parts[0].T + query[1] @ parts[1].T) * a["scale"]
        moved = _score_error(query, parts, kept)
        moved = moved + (query_error[token] @ parts[0].abs().T).amax(-1, keepdim=True)
        inner, sums = _attended(scores, moved * a["scale"], parts[0], kept)
        last = _products(sums.unsqueeze(1), w_uv, dtypes[1]).squeeze(1)
        error[token] = torch.einsum("hc,hvc->hv", inner, w_uv.abs()) + last
    return _only(error)


def _index_scores(call: Call) -> Cost:
    a, dtype = call.double().arguments, call.arguments["keys"].rows.dtype
    context = call.arguments["context"]
    error = torch.zeros(a["q"].shape[0], context.max_length, dtype=torch.float64)
    reading = torch.zeros_like(error)
    for token in range(a["q"].shape[0]):
        rows = a["keys"].rows[context.slots(token, a["keys"].page_size)]
        weights = a["w"][token].abs() * a["scale"]
        error[token, : rows.shape[0]] = weights @ _products(a["q"][token], rows, dtype)
        dots = (a["q"][token].abs() @ rows.abs().T).sum(0)
        reading[token, : rows.shape[0]] = weights.sum() + dots * (1 + a["scale"])
    return _only(error, reading)


def _route(call: Call) -> Cost:
    zeros = torch.zeros(call.tokens, call.arguments["k"], dtype=torch.float64)
    return Cost((zeros, zeros), (zeros, zeros + call.arguments["scale"]))


def _combine(call: Call) -> Cost:
    a = call.double().arguments
    by_slot = torch.empty_like(a["rows"])
    by_slot[a["slots"].long()] = a["rows"].abs()
    sums: Tensor = by_slot.unflatten(0, a["weights"].shape).sum(1)
    return _only(torch.zeros_like(sums), sums + a["weights"].abs().sum(-1, keepdim=True) + 1)


def _experts(call: Call) -> Cost:
    """Errors of gate and up carried through the activation, then those of the second product."""
    a = call.double().arguments
    gate_up, down = a["w_gate_up"].tensor, a["w_down"].tensor
    dtypes = [call.arguments[name].tensor.dtype for name in ("w_gate_up", "w_down")]
    error = torch.zeros_like(a["shared"])
    for token, ids in enumerate(a["ids"].tolist()):
        x = a["x"][token : token + 1]
        for slot, expert in enumerate(ids):
            gate, up = (x @ gate_up[expert].T).chunk(2, -1)
            off_gate, off_up = _products(x, gate_up[expert], dtypes[0]).chunk(2, -1)
            active = torch.nn.functional.silu(gate)
            off_hidden = 1.1 * up.abs() * off_gate + active.abs() * off_up
            last = _products(active * up, down[expert], dtypes[1])
            row = off_hidden @ down[expert].abs().T + last
            error[token] += a["weights"][token, slot].abs() * row[0]
    return _only(error, torch.ones_like(error))


def _muon(call: Call) -> Cost:
    """In the norm of the result: nothing here, all of it in the coefficients."""
    zeros = torch.zeros_like(call.arguments["g"], dtype=torch.float64)
    return _only(zeros)


_COSTS: dict[str, Callable[[Call], Cost]] = {
    "linear": _linear,
    "head_linear": _head_linear,
    "grouped_linear": _grouped_linear,
    "rms_norm": _rms_norm,
    "layer_norm": _layer_norm,
    "rope": _rope,
    "swiglu": _swiglu,
    "latent_attention": _latent_attention,
    "mla": _mla,
    "index_scores": _index_scores,
    "moe_route": _route,
    "moe_combine": _combine,
    "moe_experts": _experts,
    "muon_orthogonalize": _muon,
}
