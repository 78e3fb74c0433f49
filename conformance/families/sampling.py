"""Sampling: greedy ties, the kept mass, the draw."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from glm5_hal import Runtime
from glm5_hal.conformance import data
from glm5_hal.conformance.call import Call, answer
from glm5_hal.conformance.case import Case, Check, Evidence, Failure
from glm5_hal.conformance.families.judging import case, digests, parity, same_bytes
from glm5_hal.conformance.shapes import Shape
from glm5_hal.conformance.subjects import Variant, variants

_LAST_DRAW = (1 << 24) - 1


def cases() -> Iterator[Case]:
    """The requirements of sample, each on its own."""
    for v in variants("sample", kinds=("normal", "plateau", "equal", "zeros"), dtypes=("fp32",)):
        yield case("SAMPLE-1", "parity", v, parity(_greedy(v)), tag="greedy")
    for v in variants("sample", kinds=("normal",), dtypes=("fp32",)):
        yield case("SAMPLE-2", "parity", v, _kept(v), tag="top-p")
    cut = Variant("sample", Shape({"T": 6, "V": 8}, quick=True), "normal", "fp32")
    yield case("SAMPLE-2", "parity", cut, _cut(cut), tag="cut")
    law = Variant("sample", Shape({"T": 4096, "V": 7}, quick=True), "normal", "fp32")
    yield case("SAMPLE-3", "parity", law, _law(law), tag="law")
    extremes = Variant("sample", Shape({"T": 2, "V": 33}, quick=True), "normal", "fp32")
    yield case("SAMPLE-3", "parity", extremes, _extremes(extremes), tag="extremes")


def _greedy(v: Variant) -> Callable[[], Call]:
    def build() -> Call:
        call = v.call()
        return call.with_arguments(temperature=torch.zeros(v.shape["T"]))

    return build


def _kept(v: Variant) -> Check:
    """A tiny top_p keeps the first only, so every draw gives the greedy token."""

    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        tokens = v.shape["T"]
        hot = call.with_arguments(
            temperature=torch.full((tokens,), 0.8), top_p=torch.full((tokens,), 1e-6)
        )
        found = answer(runtime, hot)
        expected = _greedy(v)().defined(runtime.plan.numerics)
        same_bytes(expected, found, message="top_p = 1e-6 does not keep the first token alone")
        return Evidence(digests(found))

    return check


def _cut(v: Variant) -> Check:
    """Known masses, with top_p inside the n-th: the middle of what is kept last is the n-th id.

    Row t keeps t + 1 ids of masses 1/2, 1/4, ...; then all ids are equal, and three are kept.
    """

    def check(runtime: Runtime) -> Evidence:
        rows, size = v.shape["T"], v.shape["V"]
        mass = 0.5 ** torch.arange(1, size + 1, dtype=torch.float64)
        mass[-1] = mass[-2]  # they sum to 1
        behind = mass.cumsum(0)
        middle = behind - mass / 2
        ids = data.permutation(v.name("ids"), size)
        logits = torch.empty(rows, size)
        logits[:, ids] = (0.5 * mass.log()).float()
        some = _choice(logits, 0.5, middle[:rows].float(), middle[:rows] / behind[:rows])
        expected = ids[:rows].int()
        found = answer(runtime, some)
        same_bytes((expected,), found, message="top_p keeps other ids", hint=_CUT)
        level = _choice(torch.zeros(1, size), 0.5, torch.tensor([0.3]), torch.tensor([2.5 / 3]))
        third = torch.tensor([2], dtype=torch.int32)
        same_bytes(
            (third,), answer(runtime, level), message="equal ids are not kept in order", hint=_CUT
        )
        return Evidence(digests(found))

    return check


_CUT = "kept are the ids before which less than top_p stands, at the row's temperature"


def _choice(logits: Tensor, temperature: float, top_p: Tensor, place: Tensor) -> Call:
    """A call whose draws lie at `place`, a share of what is kept."""
    arguments = {
        "logits": logits,
        "temperature": torch.full((logits.shape[0],), temperature),
        "top_p": top_p,
        "draws": (place * (1 << 24)).int(),
    }
    return Call("sample", arguments)


def _law(v: Variant) -> Check:
    """4,096 draws of one distribution: each id falls on the draws that its mass owns."""

    def check(runtime: Runtime) -> Evidence:
        tokens, size = v.shape["T"], v.shape["V"]
        logits = data.normal(v.name("law"), (1, size), torch.float32).expand(tokens, -1)
        draws = (torch.arange(tokens) * ((1 << 24) // tokens)).int()
        call = Call(
            "sample",
            {
                "logits": logits.contiguous(),
                "temperature": torch.ones(tokens),
                "top_p": torch.full((tokens,), 0.95),
                "draws": draws,
            },
        )
        (found,) = answer(runtime, call)
        (expected,) = call.defined(runtime.plan.numerics)
        # at the edges between two ids the last bit of a sum decides; there are at most V of them
        if int((found != expected).sum()) > size:
            raise Failure(
                "ids do not follow the draws",
                hint="the draw is ignored, or another generator is used",
            )
        same_bytes((found,), answer(runtime, call), message="the same draws, other ids")
        return Evidence(digests((found,)))

    return check


def _extremes(v: Variant) -> Check:
    """The smallest draw takes the most likely kept id, the largest the least likely."""

    def check(runtime: Runtime) -> Evidence:
        call = v.call().with_arguments(
            temperature=torch.ones(2),
            top_p=torch.full((2,), 0.9),
            draws=torch.tensor([0, _LAST_DRAW], dtype=torch.int32),
        )
        found = answer(runtime, call)
        expected = call.defined(runtime.plan.numerics)
        same_bytes(expected, found, message="the extreme draws")
        return Evidence(digests(found))

    return check
