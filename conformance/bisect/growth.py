"""The fast profile: errors of every op call against float64, as shares of the suite's bounds.

Both backends answer each call with the same inputs, those of the run of the other backend. Results
of ops that move, order or choose values are right or wrong; where a choice lies within rounding of
its margin, it is right.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from glm5_hal import Runtime, Unsupported
from glm5_hal.conformance import bounds
from glm5_hal.conformance.bisect.asking import Asker, ChangedInputError, NotGivenError
from glm5_hal.conformance.bisect.observed import Observed, Results
from glm5_hal.conformance.bisect.sites import Site
from glm5_hal.conformance.call import Call
from glm5_hal.conformance.compare import first_difference
from glm5_hal.levels import Numerics

STANDS_OUT = 2.0
"""An error stands out where it is this many times as large as the other backend's."""
VISIBLE = 0.1
"""Smaller shares of a bound are rounding, of which no growth is read."""

Share = Callable[[Results], float]
"""Largest error of an answer as a share of its bound."""


@dataclass(frozen=True)
class Measured:
    """One call.

    Attributes:
        site: which.
        judged, against: largest error of each backend as a share of the bound; 1 is the bound.
        message: why the judged one was not measured; empty if it was.
    """

    site: Site
    judged: float
    against: float
    message: str = ""

    @property
    def growth(self) -> float:
        """The judged backend's error as a multiple of the other's, or of `VISIBLE` if that is more.

        A rounding of the result is as large in every backend: what grows beyond it is the op's.
        """
        return self.judged / max(self.against, VISIBLE)

    @property
    def stands_out(self) -> bool:
        """Whether the error is beyond its bound, or much larger than the other backend's."""
        return not self.message and (self.judged > 1 or self.growth > STANDS_OUT)


@dataclass
class Growth:
    """Measures a backend call by call: run the model with `runtime`.

    Args:
        judged: the backend that is asked.
        other: the backend that runs the model.

    Attributes:
        runtime: answers as `other` does.
        calls: what was measured, in order.
    """

    judged: Runtime
    other: Runtime
    calls: list[Measured] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.asker = Asker(self.judged)
        self.runtime = Observed(self.other.plan, self.other.backend, self._see, in_parts=True)

    def _see(self, site: Site, call: Call, results: Results) -> None:
        if site.composite and self.judged.plan.ops[site.composite].source == "native":
            return  # a kernel of its own calls no parts
        share = _share_of(call)
        known = share(results)
        found, message = math.inf, ""
        try:
            found = share(self.asker.answer(call))
        except Unsupported as error:
            message = str(error)
        except (NotGivenError, ChangedInputError) as error:
            message = str(error)
        except Exception as error:  # whatever a backend raises is a finding, never the end
            message = f"{type(error).__name__}: {error}"
        self.calls.append(Measured(site, found, known, message))

    @property
    def begins(self) -> Measured | None:
        """The first call whose error stands out."""
        return next((call for call in self.calls if call.stands_out), None)

    def rows(self) -> list["Row"]:
        """Errors by place and op: those beyond their bound first, then the largest growth."""
        groups: dict[tuple[str, str], list[Measured]] = {}
        for call in self.calls:
            if not call.message:
                groups.setdefault((call.site.place, call.site.path), []).append(call)
        made = [Row(*key, calls) for key, calls in groups.items()]
        return sorted(made, key=lambda row: _rank(row.worst), reverse=True)

    def unmeasured(self) -> Iterator[Measured]:
        """Calls that the judged backend did not answer."""
        return (call for call in self.calls if call.message)


@dataclass(frozen=True)
class Row:
    """The measurements of one op in one place."""

    place: str
    path: str
    calls: list[Measured]

    @property
    def worst(self) -> Measured:
        """The call that ranks first."""
        return max(self.calls, key=_rank)


def _rank(call: Measured) -> tuple[float, float, float]:
    """What is beyond its bound, by how much it is; then by growth."""
    return max(1.0, call.judged), call.growth, call.judged


def _share_of(call: Call) -> Share:
    """How an op is measured; the oracle of a call is computed once for both backends."""
    if call.op in _CHOOSING:
        return _CHOOSING[call.op](call)
    if call.op in bounds.table()[Numerics.FAST.value]:
        exact, bound = bounds.of(call, Numerics.FAST)
        return lambda found: bounds.worst_of(exact, bound, found)[0]
    expected = call.reference()
    return lambda found: 0.0 if first_difference(expected, found) is None else math.inf


def _selection(call: Call) -> Share:
    """dsa_select: how far a refused score lies above a chosen one, beyond both bounds."""
    k = call.arguments["k"]
    scored = Call("index_scores", {n: v for n, v in call.arguments.items() if n != "k"})
    ((exact,), (bound,)) = bounds.of(scored, Numerics.FAST)
    lengths = call.arguments["context"].lengths

    def share(found: Results) -> float:
        return max(
            (
                _choice(exact[row, :length], bound[row, :length], found[0][row], k)
                for row, length in enumerate(lengths.tolist())
            ),
            default=0.0,
        )

    return share


def _choice(scores: Tensor, bound: Tensor, chosen: Tensor, k: int) -> float:
    """Share of the margin by which the choice of one row is wrong; 0 if nothing refused is more."""
    valid = chosen[chosen >= 0].long()
    count = min(k, scores.shape[0])
    if (
        valid.numel() != count
        or not bool((valid.diff() > 0).all())
        or bool((valid >= len(scores)).any())
    ):
        return math.inf
    refused = torch.ones_like(scores, dtype=torch.bool)
    refused[valid] = False
    if not bool(refused.any()):
        return 0.0
    best = scores.masked_fill(~refused, -torch.inf).argmax()
    worst = scores.masked_fill(refused, torch.inf).argmin()
    over = scores[best] - scores[worst]
    return max(0.0, float(over / (bound[best] + bound[worst])))


def _routing(call: Call) -> Share:
    """moe_route: its weights where the experts are right, else the margin of the choice."""
    exact, bound = bounds.of(call, Numerics.FAST)
    a = call.arguments
    choice = torch.sigmoid(a["logits"].double()) + a["bias"].tensor.double()
    rounding = 16 * 2.0**-24 * (choice.abs() + a["bias"].tensor.double().abs() + 1)

    def share(found: Results) -> float:
        same = (found[0].double() == exact[0]).all(-1)
        parts = (exact[1][same],), (bound[1][same],), (found[1][same],)
        found_worst = bounds.worst_of(*parts)[0] if bool(same.any()) else 0.0
        if a["n_group"] > 1:  # a group's margin is another; a wrong choice is not weighed
            return found_worst if bool(same.all()) else math.inf
        others = (~same).nonzero().flatten().tolist()
        margins = (_choice(choice[r], rounding[r], found[0][r], a["k"]) for r in others)
        return max(found_worst, *margins, 0.0)

    return share


_CHOOSING: dict[str, Callable[[Call], Share]] = {"dsa_select": _selection, "moe_route": _routing}
