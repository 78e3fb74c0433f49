"""Inputs at which a slip in a formula shows: tiny rows, offsets, other scales, page ends, flags."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from glm5_hal import PagedContext, Runtime
from glm5_hal.conformance import bounds
from glm5_hal.conformance.call import Call, answer
from glm5_hal.conformance.case import ACCURACY, Case, Check, Evidence
from glm5_hal.conformance.families.judging import case, digests, same_bytes
from glm5_hal.conformance.shapes import Shape
from glm5_hal.conformance.subjects import Variant, variants

Change = Callable[[Call], Call]

_SCALED = {
    "latent_attention": "ATTENTION-1",
    "mla": "MLA-1",
    "mla_expanded": "MLA-EXPANDED-1",
    "index_scores": "INDEX-SCORES-1",
}


def cases() -> Iterator[Case]:
    """Each slip of its own kind."""
    for dtype in ("fp32", "bf16"):
        # a width that is no power of two
        for op, requirement in (("rms_norm", "RMS-NORM-2"), ("layer_norm", "LAYER-NORM-1")):
            v = Variant(op, Shape({"T": 5, "D": 80}, quick=True), dtype=dtype)
            yield _accurate(requirement, v, _tiny_rows, "tiny")
        for op, requirement in _SCALED.items():
            for v in variants(op, dtypes=(dtype,), quick_only=True):
                yield _accurate(requirement, v, _other_scale, "other-scale")
        for v in variants("latent_attention", dtypes=(dtype,)):
            if v.shape["k"] == 0:
                yield _accurate("ATTENTION-2", v, _page_ends, "page-ends")
        for v in variants("index_scores", dtypes=(dtype,)):
            yield _accurate("INDEX-SCORES-2", v, _page_ends, "page-ends")
        for v in variants("moe_combine", dtypes=(dtype,), quick_only=True):
            yield _accurate("COMBINE-1", v, _with(shared=None), "no-shared")
        for v in variants("moe_experts", dtypes=(dtype,), quick_only=True):
            yield case("EXPERTS-1", "invariance", v, _no_shared(v), tag="no-shared")
        for v in variants("muon_orthogonalize", dtypes=(dtype,), quick_only=True):
            yield _accurate("MUON-1", v, _with(steps=3), "steps")
    v = Variant("layer_norm", Shape({"T": 5, "D": 80}, quick=True), dtype="fp32")
    yield _accurate("LAYER-NORM-1", v, _far_from_zero, "far-from-zero")


def _accurate(requirement: str, v: Variant, change: Change, tag: str) -> Case:
    def check(runtime: Runtime) -> Evidence:
        call = change(v.call())
        exact, bound = bounds.of(call, runtime.plan.numerics)
        return bounds.judge(call, exact, bound, answer(runtime, call))

    return case(requirement, "accuracy", v, check, aspect=ACCURACY, tag=tag)


def _with(**changed: Any) -> Change:
    return lambda call: call.with_arguments(**changed)


def _tiny_rows(call: Call) -> Call:
    """Row t times 2^-(6 + t): mean squares from far above epsilon to below it."""
    factor = 0.5 ** torch.arange(6, 6 + call.tokens).unsqueeze(1)
    rows = {name: call.arguments[name] for name in call.per_token()}
    return call.with_arguments(**{n: (x * factor).to(x.dtype) for n, x in rows.items()})


def _far_from_zero(call: Call) -> Call:
    """A mean of 4096 standard deviations: squares less the square of the mean cancel."""
    return call.with_arguments(x=call.arguments["x"] + 4096.0)


def _other_scale(call: Call) -> Call:
    """A scale that does not follow from the shapes."""
    return call.with_arguments(scale=call.arguments["scale"] * 0.7)


def _page_ends(call: Call) -> Call:
    """Every sequence shortened so that its last query's last row ends a page."""
    context: PagedContext = call.arguments["context"]
    page = call.arguments["keys" if "keys" in call.arguments else "cache"].page_size
    lengths = context.lengths.clone()
    for sequence in context.sequence.unique():
        mine = context.sequence == sequence
        surplus = lengths[mine][-1] % page
        if bool((lengths[mine] > surplus).all()):
            lengths[mine] -= surplus
    return call.with_arguments(context=replace(context, lengths=lengths))


def _no_shared(v: Variant) -> Check:
    """No shared expert is a shared expert that gives zeros."""

    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        zeros = torch.zeros_like(call.arguments["shared"])
        (expected,) = answer(runtime, call.with_arguments(shared=zeros))
        (found,) = answer(runtime, call.with_arguments(shared=None))
        same_bytes(
            (expected + 0.0,),  # a sum may be -0.0 without, and +0.0 with zeros
            (found + 0.0,),
            message="no shared rows are not as zeros",
        )
        return Evidence(digests((found,)))

    return check
