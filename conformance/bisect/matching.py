"""Holding two traces against each other: which call is at fault, which only follow."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from glm5_hal.conformance.bisect.sites import Site
from glm5_hal.conformance.bisect.traces import Given, Traced
from glm5_hal.conformance.errors import AskedError


class TracesApartError(AskedError):
    """Two traces that are not of the same model, tokens or calls."""


class Verdict(enum.Enum):
    """How a call stands in two traces."""

    SAME = "the same"
    GUILTY = "inputs agree, outputs differ"
    FOLLOWS = "inputs differ already"


@dataclass(frozen=True)
class Match:
    """One call in both traces.

    Attributes:
        judged, against: the call in each.
        verdict: how it stands.
        inputs: arguments that differ.
        outputs: numbers of the results that differ.
    """

    judged: Traced
    against: Traced
    verdict: Verdict
    inputs: tuple[str, ...]
    outputs: tuple[int, ...]

    @property
    def site(self) -> Site:
        """Which call."""
        return self.judged.site


@dataclass(frozen=True)
class Matches:
    """Two traces, call by call.

    Attributes:
        all: every call that both have, in order.
        only_judged, only_against: parts of composites that one of them does not call.
    """

    all: tuple[Match, ...]
    only_judged: tuple[str, ...]
    only_against: tuple[str, ...]

    @property
    def guilty(self) -> Match | None:
        """The first call whose inputs agree and whose outputs differ."""
        return next((match for match in self.all if match.verdict is Verdict.GUILTY), None)

    @property
    def foundling(self) -> Match | None:
        """A call whose inputs differ although no call before it is at fault."""
        for match in self.all:
            if match.verdict is Verdict.GUILTY:
                return None
            if match.verdict is Verdict.FOLLOWS:
                return match
        return None


def match(judged: Sequence[Traced], against: Sequence[Traced]) -> Matches:
    """Hold two runs against each other.

    Raises:
        TracesApartError: the models called other ops, or in another order.
    """
    _check_calls(judged, against)
    others = {call.site.name: call for call in against}
    mine = {call.site.name for call in judged}
    return Matches(
        tuple(_match(c, others[c.site.name]) for c in judged if c.site.name in others),
        tuple(call.site.name for call in judged if call.site.name not in others),
        tuple(name for name in others if name not in mine),
    )


def _check_calls(judged: Sequence[Traced], against: Sequence[Traced]) -> None:
    """The model's own calls must be the same; parts of composites are each backend's affair."""
    names = [[c.site.name for c in calls if not c.site.within] for calls in (judged, against)]
    for number, (mine, theirs) in enumerate(zip(*names, strict=False)):
        if mine != theirs:
            raise TracesApartError(
                f"the traces part at call {number}: {mine} in the first, {theirs} in the second; "
                "they are of other versions of the model, or of other options"
            )
    if len(names[0]) != len(names[1]):
        raise TracesApartError(
            f"the first trace has {len(names[0])} calls of the model, the second {len(names[1])}; "
            "trace whole runs with the same options"
        )


def _match(judged: Traced, against: Traced) -> Match:
    inputs = _differing(judged.given, against.given)
    pairs = list(zip(judged.gave, against.gave, strict=False))
    outputs = [number for number, (mine, theirs) in enumerate(pairs) if mine != theirs]
    if len(judged.gave) != len(against.gave):
        outputs.append(len(pairs))
    verdict = Verdict.FOLLOWS if inputs else Verdict.GUILTY if outputs else Verdict.SAME
    return Match(judged, against, verdict, inputs, tuple(outputs))


def _differing(mine: Mapping[str, Given], theirs: Mapping[str, Given]) -> tuple[str, ...]:
    names = dict.fromkeys([*mine, *theirs])
    return tuple(name for name in names if mine.get(name) != theirs.get(name))
