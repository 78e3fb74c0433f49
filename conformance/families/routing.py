"""Expert routing: choices, group limits, pairing of ids and weights."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from glm5_hal import Runtime, WeightRole
from glm5_hal.conformance import bounds, data
from glm5_hal.conformance.call import Call, WeightValue, answer
from glm5_hal.conformance.case import Case, Check, Evidence, Failure
from glm5_hal.conformance.families.judging import case, digests, same_bytes
from glm5_hal.conformance.subjects import Variant, variants

MARGIN = 1e-5
"""A choice is judged where the last chosen and the first refused differ by more than this."""


Results = tuple[Tensor, ...]
Compare = Callable[[Call, Results, Results], None]
"""Judges (call, what its definition answers, what was found); raises `Failure`."""


def cases() -> Iterator[Case]:
    """The requirements of moe_route, each on its own."""
    for v in variants("moe_route", kinds=("normal", "outlier60"), dtypes=("fp32",)):
        yield case("ROUTE-1", "parity", v, _chosen(v), tag="choice")
        yield case("ROUTE-4", "parity", v, _pairing(v), tag="pairing")
        yield case("ROUTE-1", "invariance", v, _bias_shifted(v), tag="bias-shifted")
        yield case("ROUTE-5", "accuracy", v, _weights(v, True), aspect="accuracy")
        yield case("ROUTE-5", "accuracy", v, _weights(v, False), aspect="accuracy", tag="plain")
    for v in variants("moe_route", kinds=("normal",), dtypes=("fp32",)):
        if v.shape["n_group"] > 1:
            yield case("ROUTE-2", "parity", v, _groups(v), tag="groups")
        else:
            yield case("ROUTE-1", "parity", v, _close(v), tag="close")
    for v in variants("moe_route", kinds=("equal", "zeros", "plateau"), dtypes=("fp32",)):
        if v.shape["n_group"] == 1:
            yield case("ROUTE-3", "parity", v, _ties(v), tag="ties")


def _judge(v: Variant, compare: Compare) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        ids, weights = answer(runtime, call)
        compare(call, call.defined(runtime.plan.numerics), (ids, weights))
        return Evidence(digests((ids, weights)))

    return check


def _choice_scores(call: Call) -> Tensor:
    """s + bias in float64, -Inf outside the chosen groups: [T, E]."""
    a = call.arguments
    choice: Tensor = torch.sigmoid(a["logits"].double()) + a["bias"].tensor.double()
    if a["n_group"] > 1:
        groups: Tensor = choice.unflatten(1, (a["n_group"], -1))
        total = groups.sort(-1, descending=True).values[..., :2].sum(-1)
        best = torch.sort(total, dim=-1, descending=True, stable=True).indices[:, : a["topk_group"]]
        kept = torch.zeros(total.shape, dtype=torch.bool).scatter_(1, best, True)
        choice = groups.masked_fill(~kept.unsqueeze(-1), -torch.inf).flatten(1)
    return choice


def _clear_rows(call: Call) -> Tensor:
    """Rows whose choice float32 rounding cannot turn: bool [T]."""
    k = call.arguments["k"]
    ranked = _choice_scores(call).sort(-1, descending=True).values
    if k == ranked.shape[1]:
        return torch.ones(ranked.shape[0], dtype=torch.bool)
    return (ranked[:, k - 1] - ranked[:, k]) > MARGIN


def _chosen(v: Variant) -> Check:
    def compare(call: Call, expected: Results, found: Results) -> None:
        clear = _clear_rows(call)
        if clear.numel() and float(clear.float().mean()) < 0.5:
            raise Failure("the case is too weak: half of its rows have no margin")
        same_bytes((expected[0][clear],), (found[0][clear],), message="other experts are chosen")

    return _judge(v, compare)


def _pairing(v: Variant) -> Check:
    def compare(call: Call, expected: Results, found: Results) -> None:
        ids, weights = found
        if bool((ids.diff(dim=1) <= 0).any()):
            raise Failure("the ids of a row do not ascend")
        own = torch.sigmoid(call.arguments["logits"].double()).gather(1, ids.long())
        own = own / own.sum(-1, keepdim=True) * call.arguments["scale"]
        if not torch.allclose(weights.double(), own, rtol=1e-5, atol=1e-12):
            raise Failure(
                "a weight does not belong to the id beside it",
                hint="weights taken with the bias, or ordered apart from the ids",
            )

    return _judge(v, compare)


def _bias_shifted(v: Variant) -> Check:
    """A larger bias of all experts chooses the same ones, and no weight moves."""

    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        bias = call.arguments["bias"]
        found = answer(runtime, call)
        clear = _clear_rows(call)
        shifted = call.with_arguments(bias=WeightValue(bias.role, bias.tensor + 0.5))
        same_bytes(
            tuple(part[clear] for part in found),
            tuple(part[clear] for part in answer(runtime, shifted)),
            message="the weights depend on the bias",
            change="the bias of every expert is larger by 0.5",
            hint="the weights are taken of s + bias; they are of s alone",
        )
        return Evidence(digests(found))

    return check


def _close(v: Variant) -> Check:
    """Logits 2^-9 apart under a bias of 4: clear in float32, equal in bf16."""

    def check(runtime: Runtime) -> Evidence:
        tokens, experts = v.shape["T"], v.shape["E"]
        order = [data.permutation(v.name(f"order{token}"), experts) for token in range(tokens)]
        steps = torch.stack(order) if order else torch.empty(0, experts)
        bias = WeightValue(WeightRole.VECTOR, torch.full((experts,), 4.0))
        call = v.call().with_arguments(logits=1.0 + steps.float() * 2.0**-9, bias=bias)
        found = answer(runtime, call)
        same_bytes(
            call.defined(runtime.plan.numerics)[:1],
            found[:1],
            message="other experts are chosen",
            hint="scores or bias are narrower than float32",
        )
        return Evidence(digests(found))

    return check


def _weights(v: Variant, normalize: bool) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call().with_arguments(normalize=normalize)
        found = answer(runtime, call)
        clear = _clear_rows(call)
        expected, bound = bounds.of(call, runtime.plan.numerics)
        return bounds.judge(
            call, (expected[1][clear],), (bound[1][clear],), (found[1][clear],), decoys=False
        )

    return check


def _groups(v: Variant) -> Check:
    def compare(call: Call, expected: Results, found: Results) -> None:
        a = call.arguments
        size = a["logits"].shape[1] // a["n_group"]
        used = [len({int(i) // size for i in row}) for row in found[0]]
        if max(used, default=0) > a["topk_group"]:
            raise Failure(
                f"experts of {max(used)} groups are chosen, the limit is {a['topk_group']}"
            )
        clear = _clear_rows(call)
        same_bytes((expected[0][clear],), (found[0][clear],), message="other groups are chosen")

    return _judge(v, compare)


def _ties(v: Variant) -> Check:
    """Equal scores and no bias: the lowest indices win, whatever rounding does."""

    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        flat = torch.zeros_like(call.arguments["bias"].tensor)
        call = call.with_arguments(bias=WeightValue(WeightRole.VECTOR, flat))
        ids, weights = answer(runtime, call)
        # sigmoid is monotonic, and equal logits have equal scores: the order is the logits' own
        ranked = torch.sort(call.arguments["logits"] + 0.0, dim=-1, descending=True, stable=True)
        expected = ranked.indices[:, : call.arguments["k"]].sort(-1).values.int()
        cut = ranked.values[:, : call.arguments["k"] + 1]
        last, following = cut[:, -2], cut[:, -1]
        judged = (last == following) | ((last - following) > MARGIN)
        same_bytes(
            (expected[judged],),
            (ids[judged],),
            message="ties are not broken by the lowest index",
            hint="torch.topk promises no tie order",
        )
        return Evidence(digests((ids, weights)))

    return check
