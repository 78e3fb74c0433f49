"""Why a call differs: the requirement that it breaks, and the fewest rows that show it."""

import enum
from collections.abc import Callable
from dataclasses import dataclass

import torch

from glm5_hal import Unsupported
from glm5_hal.conformance.bisect import clauses, hypotheses, reducing
from glm5_hal.conformance.bisect.asking import Asker, without_gaps
from glm5_hal.conformance.bisect.findings import What
from glm5_hal.conformance.bisect.lockstep import Exhibit
from glm5_hal.conformance.bisect.observed import Results
from glm5_hal.conformance.call import Call
from glm5_hal.conformance.compare import Difference, first_difference
from glm5_hal.conformance.reference_backend import reference_runtime
from glm5_hal.contract import OPS, Kind
from glm5_hal.levels import Numerics

_COMPANY = {
    "linear": "LINEAR-2",
    "head_linear": "HEAD-LINEAR-2",
    "grouped_linear": "GROUPED-LINEAR-2",
    "rms_norm": "RMS-NORM-3",
    "layer_norm": "LAYER-NORM-2",
    "rope": "ROPE-3",
    "swiglu": "SWIGLU-2",
    "latent_attention": "ATTENTION-5",
    "mla": "MLA-2",
    "index_scores": "INDEX-SCORES-3",
    "topk": "TOPK-5",
    "dsa_select": "DSA-SELECT-2",
    "moe_route": "ROUTE-6",
    "moe_combine": "COMBINE-2",
    "moe_experts": "EXPERTS-2",
}
"""The requirement of each op that its rows do not depend on one another."""


class Verdict(enum.Enum):
    """Which of two different answers the definition gives."""

    EXPECTED = "expected"
    FOUND = "found"
    NEITHER = "neither"


@dataclass(frozen=True)
class Reason:
    """What a wrong answer breaks.

    Attributes:
        requirements: one id where a rule tells; else those that define the op's bytes.
        text: what was found, in words.
    """

    requirements: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Explanation:
    """The call at fault, made small.

    Attributes:
        reason: what is broken.
        call: the fewest rows that still differ.
        rows: how many those are; 0 where the op has no rows to take.
        of: how many the model gave.
        expected: what the other backend answers.
        found: what the judged one answers; empty if it raises.
        difference: between the two; None where the judged one raises or changes its input.
        verdict: which of them the definition agrees with; None if the judged one gave nothing.
    """

    reason: Reason
    call: Call
    rows: int
    of: int
    expected: Results
    found: Results
    difference: Difference | None
    verdict: Verdict | None


class _Pair:
    """The two backends, asked the same."""

    def __init__(self, judged: Asker, against: Asker) -> None:
        self.judged = judged
        self.against = against

    def difference(self, call: Call) -> Difference | None:
        """Between their answers."""
        expected, found = self.against.answer(call), self.judged.answer(call)
        return first_difference(expected, found, any_nan=False)

    def fails(self, call: Call) -> bool:
        """Whether the judged backend answers otherwise, or not at all."""
        expected = self.against.answer(call)
        try:
            found = self.judged.answer(call)
        except Unsupported:
            raise
        except Exception:  # what it raises is the finding that is being reduced
            return True
        return first_difference(expected, found, any_nan=False) is not None


def explain(judged: Asker, against: Asker, exhibit: Exhibit) -> Explanation:
    """Reduce the call at fault and name what it breaks."""
    pair = _Pair(judged, against)
    small = reducing.reduce(exhibit.call, pair.fails)
    if not pair.fails(small):  # it does not differ each time
        small = exhibit.call
    expected = against.answer(small)
    try:
        found = judged.answer(small)
    except Exception as error:  # as above
        reason = _raised(exhibit, f"{type(error).__name__}: {error}")
        return _explanation(exhibit, small, reason, expected, (), None)
    difference = first_difference(expected, found, any_nan=False)
    if difference is None:
        text = "asked again with the same inputs it gives the right bytes"
        reason = Reason(("RUN-1",), text)
        return _explanation(exhibit, small, reason, expected, found, exhibit.finding.difference)
    reason = _reason(pair, exhibit, small, expected, found)
    return _explanation(exhibit, small, reason, expected, found, difference)


def of_answers(call: Call, expected: Results, found: Results) -> Explanation | None:
    """Explain two answers of which neither backend is here; None if they are the same.

    The definition stands for the backend that is right. Where each row of the results is one of
    the call's rows, the first that differs is taken alone.
    """
    difference = first_difference(expected, found, any_nan=False)
    if difference is None:
        return None
    small, mine, theirs = _first_row(call, expected, found, difference)
    pair = _Pair(Asker(reference_runtime(Numerics.EXACT)), Asker(reference_runtime(Numerics.EXACT)))
    reason = _as_if(pair, small, mine, theirs) or _clause(pair, small, mine, theirs)
    return Explanation(
        reason=reason or _by_definition(call.op),
        call=small,
        rows=reducing.rows(small),
        of=reducing.rows(call),
        expected=mine,
        found=theirs,
        difference=first_difference(mine, theirs, any_nan=False),
        verdict=verdict(small, mine, theirs),
    )


def _first_row(
    call: Call, expected: Results, found: Results, difference: Difference
) -> tuple[Call, Results, Results]:
    count = reducing.rows(call)
    by_row = call.op != "cache_write" and all(
        part.dim() and part.shape == other.shape and part.shape[0] == count
        for part, other in zip(expected, found, strict=True)
    )
    if not by_row or not difference.index:
        return call, expected, found
    row = torch.tensor([difference.index[0]])
    mine, theirs = (tuple(part[row] for part in results) for results in (expected, found))
    return reducing.take(call, row), mine, theirs


def _explanation(
    exhibit: Exhibit,
    small: Call,
    reason: Reason,
    expected: Results,
    found: Results,
    difference: Difference | None,
) -> Explanation:
    return Explanation(
        reason=reason,
        call=small,
        rows=reducing.rows(small),
        of=reducing.rows(exhibit.call),
        expected=expected,
        found=found,
        difference=difference,
        verdict=verdict(small, expected, found) if found else None,
    )


def verdict(call: Call, expected: Results, found: Results) -> Verdict:
    """What the definition says of two different answers."""
    defined = call.defined(Numerics.EXACT)
    if first_difference(defined, expected, any_nan=False) is None:
        return Verdict.EXPECTED
    right = first_difference(defined, found, any_nan=False) is None
    return Verdict.FOUND if right else Verdict.NEITHER


def _raised(exhibit: Exhibit, message: str) -> Reason:
    if exhibit.finding.what is What.CHANGED_INPUT:
        return Reason(("GUARD-1",), message.partition(": ")[2])
    return Reason((), f"the call raises {message}")


def _reason(
    pair: _Pair, exhibit: Exhibit, small: Call, expected: Results, found: Results
) -> Reason:
    rules: tuple[Callable[[], Reason | None], ...] = (
        lambda: _again(pair, small, found),
        lambda: _gaps(pair, small),
        lambda: _company(pair, small),
        lambda: _as_if(pair, small, expected, found),
        lambda: _clause(pair, small, expected, found),
    )
    return next(filter(None, (rule() for rule in rules)), None) or _by_definition(small.op)


def _again(pair: _Pair, call: Call, found: Results) -> Reason | None:
    again = pair.judged.answer(call)
    if first_difference(found, again, any_nan=False) is None:
        return None
    return Reason(("RUN-1",), "the same call gives other bytes each time")


def _gaps(pair: _Pair, call: Call) -> Reason | None:
    plain = without_gaps(call)
    strided = [n for n, v in plain.arguments.items() if v is not call.arguments[n]]
    if not strided or pair.difference(plain) is not None:
        return None
    return Reason(
        ("RUN-4",), f"{', '.join(strided)} has gaps between its rows; without them it agrees"
    )


def _company(pair: _Pair, call: Call) -> Reason | None:
    count = reducing.rows(call)
    if call.op not in _COMPANY or count < 2:
        return None
    alone = (reducing.take(call, torch.tensor([row])) for row in range(count))
    if any(pair.difference(one) is not None for one in alone):
        return None
    return Reason((_COMPANY[call.op],), f"each row alone agrees; these {count} together do not")


def _as_if(pair: _Pair, call: Call, expected: Results, found: Results) -> Reason | None:
    """A known mistake that gives all results that differ; the others may be right."""
    wrong = [
        number
        for number, parts in enumerate(zip(expected, found, strict=True))
        if first_difference(parts[:1], parts[1:], any_nan=False) is not None
    ]
    for mistake, changed in hypotheses.of(call):
        tried = pair.against.answer(changed)
        pairs = ([results[n] for n in wrong] for results in (tried, found))
        if first_difference(*map(tuple, pairs), any_nan=False) is None:
            return Reason((mistake.requirement,), f"it answers as if {mistake.text}")
    return None


def _clause(pair: _Pair, call: Call, expected: Results, found: Results) -> Reason | None:
    broken = clauses.clause(call, expected, found)
    if call.op == "dsa_select":
        parts = {name: value for name, value in call.arguments.items() if name != "k"}
        (scores,) = pair.against.answer(Call("index_scores", parts))
        broken = clauses.selection(scores, call.arguments["context"].lengths, expected, found)
    return Reason((broken[0],), broken[1]) if broken else None


def _by_definition(name: str) -> Reason:
    """The requirements that define an op's bytes, where no rule tells them apart."""
    op = OPS[name]
    exact = tuple(key for key, r in op.requirements.items() if r.profile is Numerics.EXACT)
    if op.kind is Kind.COMPOSITE:
        return Reason(tuple(op.requirements)[:1], "not the bytes that its parts give")
    return Reason(exact or tuple(op.requirements), "no rule tells which of them")
