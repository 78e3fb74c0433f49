"""Top-k and DSA selection: rows that cut plateaus, near ties, NaN, short rows."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from glm5_hal import Runtime
from glm5_hal.conformance.call import CacheValue, Call, answer
from glm5_hal.conformance.case import Case, Check, Evidence, Failure
from glm5_hal.conformance.compare import words
from glm5_hal.conformance.families.judging import case, digests, parity, same_bytes
from glm5_hal.conformance.shapes import Shape
from glm5_hal.conformance.subjects import Variant, variants

_ROWS = ("normal", "plateau", "equal", "neartie", "zeros", "subnormal", "inf", "nan")


def cases() -> Iterator[Case]:
    """Each clause of the order on its own, then the whole on every kind of row."""
    for v in variants("topk", kinds=_ROWS, dtypes=("fp32",)):
        yield case("TOPK-1", "parity", v, _set(v.call), tag="set")
        yield case("TOPK-2", "parity", v, _order(v.call), tag="order")
        yield case("TOPK-3", "parity", v, _padding(v.call), tag="padding")
    for v in variants("topk", dtypes=("fp32",)):
        yield case("TOPK-1", "parity", v, _set(_cut_in_zeros(v)), tag="cut-in-zeros")
        signed = parity(_cut_in_zeros(v, signed=True))
        yield case("TOPK-4", "parity", v, signed, tag="cut-in-signed-zeros")
        yield case("TOPK-4", "parity", v, parity(_cut_in_nans(v)), tag="cut-in-nans")
        yield case("TOPK-3", "parity", v, _padding(_around_k(v)), tag="around-k")
    for v in variants("topk", kinds=("zeros", "nan", "inf"), dtypes=("fp32",)):
        yield case("TOPK-4", "parity", v, parity(v.call))
    for v in variants("topk", kinds=("plateau",), dtypes=("fp32",)):
        yield case("TOPK-5", "parity", v, _row_length(v), tag="row-length")
    many = Variant("topk", Shape({"T": 65_600, "S": 8, "k": 3}, quick=False), "plateau", "fp32")
    # some chips launch no more than 65,535 programs at once
    yield case("TOPK-5", "parity", many, parity(many.call), tag="many-rows")
    for v in variants("dsa_select", kinds=("normal", "zeros")):
        yield case("DSA-SELECT-1", "parity", v, _same_as_parts(v.call), tag="parts")
    for v in variants("dsa_select"):
        yield case("DSA-SELECT-1", "parity", v, _same_as_parts(_alike_keys(v)), tag="ties")


def _cut_in_zeros(v: Variant, signed: bool = False) -> Callable[[], Call]:
    """Rows with fewer positive scores than are chosen: the cut lies inside a plateau of zeros."""

    def build() -> Call:
        call = v.call()
        scores, k = call.arguments["scores"], call.arguments["k"]
        best = torch.sort(scores.nan_to_num(-torch.inf), dim=-1, descending=True, stable=True)
        few = torch.zeros_like(scores, dtype=torch.bool)
        few.scatter_(1, best.indices[:, : k // 2], True)
        zero = torch.zeros_like(scores)
        if signed:
            zero[v.integers("signs", *scores.shape, high=2) == 0] = -0.0
        level = torch.where(few, scores.abs() + 0.5, zero)
        return call.with_arguments(scores=torch.where(scores.isnan(), scores, level))

    return build


def _cut_in_nans(v: Variant) -> Callable[[], Call]:
    """Rows of NaN with all kinds of bits, and few numbers: among NaN the lowest index wins."""

    def build() -> Call:
        call = v.call()
        scores = call.arguments["scores"]
        payload = v.integers("payload", *scores.shape, low=1, high=1 << 22)
        signs = v.integers("signs", *scores.shape, high=2) << 31
        quiet = (signs | 0x7FC00000 | payload).view(torch.float32)
        number = v.integers("numbers", *scores.shape, high=8) == 0
        return call.with_arguments(scores=torch.where(number, scores, quiet))

    return build


def _around_k(v: Variant) -> Callable[[], Call]:
    """Rows of 1, k - 1, k and k + 1 valid columns, as far as there are columns."""

    def build() -> Call:
        call = v.call()
        scores, k = call.arguments["scores"], call.arguments["k"]
        wanted = torch.tensor([k, k - 1, k + 1, 1]).clamp(min=1, max=scores.shape[1])
        lengths = wanted.repeat(-(-scores.shape[0] // 4))[: scores.shape[0]].int()
        behind = torch.arange(scores.shape[1]) >= lengths.unsqueeze(1)
        whole = v.float32("whole", *scores.shape).masked_fill(behind, torch.nan)
        return call.with_arguments(scores=whole, lengths=lengths)

    return build


def _alike_keys(v: Variant) -> Callable[[], Call]:
    """Keys of five kinds, some of them one bit off: ties and near ties at every cut."""

    def build() -> Call:
        call = v.call()
        keys: CacheValue = call.arguments["keys"]
        slot = torch.arange(keys.rows.shape[0])
        width = keys.rows.shape[1]
        rows = v.plain("five", 5, width)[slot % 5]
        off = slot[slot % 3 == 0]
        words(rows)[off, off // 5 % width] += 1
        unowned = keys.rows.isnan()
        return call.with_arguments(keys=replace(keys, rows=torch.where(unowned, keys.rows, rows)))

    return build


def _judge(build: Callable[[], Call], compare: Callable[[Tensor, Tensor, Call], None]) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = build()
        (expected,), (found,) = call.defined(runtime.plan.numerics), answer(runtime, call)
        compare(expected, found, call)
        return Evidence(digests((found,)))

    return check


def _set(build: Callable[[], Call]) -> Check:
    def compare(expected: Tensor, found: Tensor, call: Call) -> None:
        same_bytes(
            (expected.sort(-1).values,),
            (found.sort(-1).values,),
            message="the chosen set is another",
            hint="among equal scores the lowest index wins; torch.topk promises no tie order",
        )

    return _judge(build, compare)


def _order(build: Callable[[], Call]) -> Check:
    def compare(expected: Tensor, found: Tensor, call: Call) -> None:
        for row in found:
            chosen = row[row >= 0]
            if bool((chosen.diff() <= 0).any()):
                raise Failure(
                    "the chosen indices do not ascend",
                    hint="sorted by score, or in order of arrival; sort by index",
                )
        same_bytes((expected,), (found,), message="not the bytes of the reference")

    return _judge(build, compare)


def _padding(build: Callable[[], Call]) -> Check:
    def compare(expected: Tensor, found: Tensor, call: Call) -> None:
        valid = call.arguments["lengths"].clamp(max=call.arguments["k"]).unsqueeze(1)
        place = torch.arange(found.shape[1])
        if not bool(((found == -1) == (place >= valid)).all()):
            raise Failure(
                "-1 does not fill exactly the places behind the valid columns",
                hint="padding leaks from columns behind the length, or is missing",
            )

    return _judge(build, compare)


def _row_length(v: Variant) -> Check:
    """The same valid columns in a longer matrix, with other bytes behind the length."""

    def check(runtime: Runtime) -> Evidence:
        call = _cut_in_zeros(v)()
        (expected,) = answer(runtime, call)
        scores = call.arguments["scores"]
        for extra, filler in ((1, torch.nan), (63, torch.inf), (1025, 0.0)):
            behind = torch.full((scores.shape[0], extra), filler)
            valid = torch.arange(scores.shape[1]) < call.arguments["lengths"].unsqueeze(1)
            longer = torch.cat((scores.masked_fill(~valid, filler), behind), dim=1)
            same_bytes(
                (expected,),
                answer(runtime, call.with_arguments(scores=longer)),
                message="the choice depends on what stands behind the length",
                change=f"{extra} columns of {filler} appended",
                hint="a split or tie order chosen by row length",
            )
        return Evidence(digests((expected,)))

    return check


def _same_as_parts(build: Callable[[], Call]) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = build()
        parts = dict(call.arguments)
        k = parts.pop("k")
        (scores,) = answer(runtime, Call("index_scores", parts))
        lengths = call.arguments["context"].lengths
        expected = answer(runtime, Call("topk", {"scores": scores, "lengths": lengths, "k": k}))
        found = answer(runtime, call)
        same_bytes(
            expected,
            found,
            message="not topk of the backend's own index_scores",
            hint="the fused selection scores, or breaks ties, in another way than the parts",
        )
        return Evidence(digests(found))

    return check
