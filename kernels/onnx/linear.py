"""Contractions with weights: plain, per head, per expert, and a rank's share of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from glm5_hal.exact import ACTIVATION_DIGITS, digits_of
from glm5_hal.kernels.onnx.builder import (
    BOOL,
    F32,
    I32,
    I64,
    TYPES,
    Graph,
    Value,
    concat,
    where,
)
from glm5_hal.kernels.onnx.entry import Call, builds
from glm5_hal.kernels.onnx.exact import (
    BITS,
    LIMB,
    Columns,
    contract,
    exact_sums,
    fixed,
    paired,
    scaled,
    write,
)
from glm5_hal.ops.row_exponents import NOT_FINITE


@builds("linear")
def _linear(call: Call) -> tuple[Value, ...]:
    x = call.tensor("x")
    out = TYPES[call.option("out_dtype")] if call.has_option("out_dtype") else x.dtype
    if call.exact:
        product = contract(fixed(x, ACTIVATION_DIGITS), call.columns("w"), rank=2)
        return (write(product, out),)
    return ((x.to(F32) @ call.wide("w")).to(out),)


@builds("head_linear")
def _head_linear(call: Call) -> tuple[Value, ...]:
    x = call.tensor("x")
    heads = x.to(F32).transpose(1, 0, 2)  # [H, T, K]
    if call.exact:
        product = contract(fixed(heads, ACTIVATION_DIGITS), call.columns("w"), rank=3)
        return (write(product.transpose(1, 0, 2), x.dtype),)
    return ((heads @ call.wide("w")).transpose(1, 0, 2).to(x.dtype),)


@builds("grouped_linear")
def _grouped_linear(call: Call) -> tuple[Value, ...]:
    """A loop over experts, each of which appends the products of its rows."""
    x = call.tensor("x")
    if not call.exact:
        wide, w = x.to(F32), call.wide("w")
        offsets = call.int32("offsets")

        def product(body: Graph, expert: Value, start: Value, stop: Value) -> Value:
            return body.use(wide).slice(start, stop, 0) @ body.use(w).gather(expert)

        return (_by_expert(offsets, F32, w.size(2), product).to(x.dtype),)
    rows, columns = fixed(x, ACTIVATION_DIGITS), call.columns("w")
    offsets = call.int32("offsets")

    def exact_product(body: Graph, expert: Value, start: Value, stop: Value) -> Value:
        own = replace(rows, integers=body.use(rows.integers).slice(start, stop, 0))
        matrix = body.use(columns.digits).gather(expert, 1)
        return paired(own, matrix, columns.count, rank=2)

    sums = _by_expert(offsets, I64, columns.digits.size(3), exact_product)
    # a row's expert: how many of the later experts begin at or before it
    place = call.graph.positions(x.size(0).squeeze(0)).unsqueeze(1)
    expert = (place >= offsets.slice(1, -1, 0)).to(I64).sum(1)
    exponent = rows.exponent.unsqueeze(1) + columns.exponent.gather(expert)
    finite = rows.finite.unsqueeze(1) & columns.finite.gather(expert)
    return (write(scaled(sums, exponent, finite, _bits(columns)), x.dtype),)


def _by_expert(
    offsets: Value,
    dtype: int,
    width: Value,
    product: Callable[[Graph, Value, Value, Value], Value],
) -> Value:
    """Results [P, width] of `product(body, expert, start, stop)` over all experts."""
    graph = offsets.graph

    def append(expert: Value, before: Value) -> Value:
        body = expert.graph
        bounds = (body.use(offsets).gather(edge).unsqueeze(0) for edge in (expert, expert + 1))
        return concat(before, product(body, expert, *bounds), axis=0)

    experts = (offsets.size(0) - 1).squeeze(0)
    empty = graph.zeros(dtype, graph.integers(0), width)
    return graph.loop(experts, empty, ("rows", "N"), append)


def _bits(columns: Columns) -> int:
    """Binary places behind the point of a product with activations."""
    return BITS + 8 * columns.count - 2


@builds("row_exponents")
def _row_exponents(call: Call) -> tuple[Value, ...]:
    wide = call.tensor("x").to(F32)
    # the largest of no elements is not defined; one zero changes nothing
    padded = concat(wide, wide.graph.zeros(F32, wide.size(0), wide.graph.integers(1)), axis=1)
    rows = fixed(padded, ACTIVATION_DIGITS)
    return (where(rows.finite, rows.exponent, NOT_FINITE).to(I32),)


@builds("linear_limbs")
def _linear_limbs(call: Call) -> tuple[Value, ...]:
    x = call.tensor("x")
    w, exponents = _shard(call, "w"), call.int32("exponents")
    sums = exact_sums(fixed(x, ACTIVATION_DIGITS, exponents), w, rank=2)
    sums = where(~exponents.equals(NOT_FINITE).unsqueeze(1) & w.finite, sums, 0)
    parts = []
    for _ in range(2):
        parts.append(sums & (LIMB - 1))
        sums = (sums - parts[-1]) / LIMB
    return (concat(*(part.to(I32).unsqueeze(2) for part in (*parts, sums)), axis=2),)


@builds("linear_from_limbs")
def _linear_from_limbs(call: Call) -> tuple[Value, ...]:
    limbs = call.int32("limbs")
    low, middle, high = (limbs.gather(place, 2) for place in range(3))
    exponents, w = call.int32("exponents"), _shard(call, "w")
    exponent = exponents.unsqueeze(1) + w.exponent
    finite = ~exponents.equals(NOT_FINITE).unsqueeze(1) & w.finite
    value = scaled((high * LIMB + middle) * LIMB + low, exponent, finite, _bits(w))
    return (write(value, TYPES[call.option("out_dtype")]),)


def _shard(call: Call, name: str) -> Columns:
    """Columns of a weight whose rows lie on several ranks, relative to the whole rows."""
    if name in call.signature.prepared:
        return call.columns(name)
    shape = call.shape(name)
    columns = call.graph.input(f"{name}.columns", call.type(name), shape)
    exponent = call.graph.input(f"{name}.exponent", I64, shape[:1])
    finite = call.graph.input(f"{name}.finite", BOOL, shape[:1])
    rows = fixed(columns, digits_of(call.signature.dtype(name)), exponent)
    return replace(Columns.of(rows, rank=2), finite=finite)
