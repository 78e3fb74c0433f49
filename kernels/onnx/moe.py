"""Routing, permutation and combination of experts."""

from __future__ import annotations

from glm5_hal.kernels.onnx.builder import F32, I32, I64, Value, where
from glm5_hal.kernels.onnx.entry import Call, builds
from glm5_hal.kernels.onnx.exact import read, sigmoid, write
from glm5_hal.kernels.onnx.select import best, order_key
from glm5_hal.ops.moe_route import TINY_TOTAL


@builds("moe_route")
def _moe_route(call: Call) -> tuple[Value, ...]:
    logits, bias = call.tensor("logits"), call.tensor("bias")
    if call.exact:
        scores = read(sigmoid(logits))
        choice = scores + read(bias)
    else:
        scores = 1.0 / ((-logits).exp() + 1.0)
        choice = scores + bias
    if call.option("n_group") > 1:
        choice = _in_groups(choice, call.option("n_group"), call.option("topk_group"))
    ids = best(choice, call.option("k"))
    weights = scores.gather_elements(ids, 1)
    if call.option("normalize"):
        total = weights.gather(0, 1)
        for slot in range(1, call.option("k")):
            total = total + weights.gather(slot, 1)
        weights = weights / (total + TINY_TOTAL).unsqueeze(1)
    weights = weights * call.option("scale")
    return ids.to(I32), write(weights) if call.exact else weights


def _in_groups(choice: Value, n_group: int, topk_group: int) -> Value:
    """-Inf for the experts of all but the best groups."""
    graph = choice.graph
    groups = choice.reshape(0, n_group, -1)  # [T, G, E / G]
    _, places = order_key(groups).top(graph.integers(2))
    first, second = groups.gather_elements(places, 2).split(2)
    kept = best((first + second).squeeze(-1), topk_group).unsqueeze(1)  # [T, 1, g]
    number = graph.positions(graph.scalar(n_group)).unsqueeze(-1)
    inside = number.equals(kept).any(-1, keep=True)  # [T, G, 1]
    return where(inside, groups, -float("inf")).like(choice)


@builds("moe_dispatch")
def _moe_dispatch(call: Call) -> tuple[Value, ...]:
    """A stable sort, which is what the lower index among equals makes of `TopK`."""
    x, ids, graph = call.tensor("x"), call.int32("ids"), call.graph
    flat = ids.reshape(-1)
    _, slots = flat.top(flat.size(0), largest=False)
    edges = graph.positions(graph.scalar(call.option("experts") + 1)).unsqueeze(0)
    offsets = (flat.unsqueeze(1) < edges).to(I64).sum(0)
    return x.gather(slots / ids.size(1)), offsets.to(I32), slots.to(I32)


@builds("moe_combine")
def _moe_combine(call: Call) -> tuple[Value, ...]:
    rows, slots = call.tensor("rows"), call.int32("slots")
    weights, k, graph = call.tensor("weights"), call.option("k"), call.graph
    enter = read if call.exact else _plain
    count = slots.size(0)
    places = graph.node(
        "ScatterElements", graph.zeros(I64, count), slots, graph.positions(count.squeeze(0))
    ).reshape(-1, k)
    terms = [
        enter(rows.gather(places.gather(slot, 1))) * enter(weights.gather(slot, 1)).unsqueeze(1)
        for slot in range(k)
    ]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    if call.has("shared"):
        total = total + enter(call.tensor("shared"))
    return (write(total, rows.dtype) if call.exact else total.to(rows.dtype),)


def _plain(x: Value) -> Value:
    return x.to(F32)
