"""Top-k and DSA selection: rows that cut plateaus, near ties, NaN, short rows."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from glm5_hal import Runtime
from glm5_hal.conformance.call import Call, answer
from glm5_hal.conformance.case import Case, Check, Evidence, Failure
from glm5_hal.conformance.families.judging import case, digests, parity, same_bytes
from glm5_hal.conformance.subjects import Variant, variants

_ROWS = ("normal", "plateau", "equal", "neartie", "zeros", "subnormal", "inf", "nan")


def cases() -> Iterator[Case]:
    """Each clause of the order on its own, then the whole on every kind of row."""
    for v in variants("topk", kinds=_ROWS, dtypes=("fp32",)):
        yield case("TOPK-1", "parity", v, _set(v), tag="set")
        yield case("TOPK-2", "parity", v, _order(v), tag="order")
        yield case("TOPK-3", "parity", v, _padding(v), tag="padding")
    for v in variants("topk", kinds=("zeros", "nan", "inf"), dtypes=("fp32",)):
        yield case("TOPK-4", "parity", v, parity(v.call))
    for v in variants("topk", kinds=("plateau",), dtypes=("fp32",)):
        yield case("TOPK-5", "parity", v, _row_length(v), tag="row-length")
    for v in variants("dsa_select", kinds=("normal", "zeros")):
        yield case("DSA-SELECT-1", "parity", v, _same_as_parts(v), tag="parts")


def _judge(v: Variant, compare: Callable[[Tensor, Tensor, Call], None]) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        (expected,), (found,) = call.reference(), answer(runtime, call)
        compare(expected, found, call)
        return Evidence(digests((found,)))

    return check


def _set(v: Variant) -> Check:
    def compare(expected: Tensor, found: Tensor, call: Call) -> None:
        same_bytes(
            (expected.sort(-1).values,),
            (found.sort(-1).values,),
            message="the chosen set is another",
            hint="among equal scores the lowest index wins; torch.topk promises no tie order",
        )

    return _judge(v, compare)


def _order(v: Variant) -> Check:
    def compare(expected: Tensor, found: Tensor, call: Call) -> None:
        for row in found:
            chosen = row[row >= 0]
            if bool((chosen.diff() <= 0).any()):
                raise Failure(
                    "the chosen indices do not ascend",
                    hint="sorted by score, or in order of arrival; sort by index",
                )
        same_bytes((expected,), (found,), message="not the bytes of the reference")

    return _judge(v, compare)


def _padding(v: Variant) -> Check:
    def compare(expected: Tensor, found: Tensor, call: Call) -> None:
        valid = call.arguments["lengths"].clamp(max=call.arguments["k"]).unsqueeze(1)
        place = torch.arange(found.shape[1])
        if not bool(((found == -1) == (place >= valid)).all()):
            raise Failure(
                "-1 does not fill exactly the places behind the valid columns",
                hint="padding leaks from columns behind the length, or is missing",
            )

    return _judge(v, compare)


def _row_length(v: Variant) -> Check:
    """The same valid columns in a longer matrix, with other bytes behind the length."""

    def check(runtime: Runtime) -> Evidence:
        call = v.call()
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


def _same_as_parts(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call()
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
