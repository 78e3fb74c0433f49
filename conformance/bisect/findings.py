"""What came of asking a backend every call of another backend's run."""

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from glm5_hal.conformance.bisect.sites import Site
from glm5_hal.conformance.compare import Difference


class What(enum.Enum):
    """What is wrong with a call; the value is how a table says it."""

    DIFFERS = "differs"
    CHANGED_INPUT = "changed its input"
    RAISED = "raised"
    MISSING = "not implemented"
    UNJUDGED = "not judged"
    """Its cache could not be given its contents: another call is at fault."""


@dataclass(frozen=True)
class Finding:
    """A call whose output differs, or that could not be judged.

    Attributes:
        site: which call.
        what: what is wrong.
        difference: first difference, where both gave an output.
        message: the error, where there is one.
        weights: where the call's weights stand in the model.
        composite: how the judged backend answers the composite that the call is a part of:
            ``native``, ``default``, or empty if it is no part of one.
        own: how the judged backend answers the op itself.
    """

    site: Site
    what: What
    difference: Difference | None = None
    message: str = ""
    weights: tuple[str, ...] = ()
    composite: str = ""
    own: str = "native"

    @property
    def says(self) -> str:
        """What happened, in a phrase."""
        return str(self.difference) if self.difference else self.message


@dataclass(frozen=True)
class Findings:
    """All of a run.

    Attributes:
        calls: names of all calls that were judged, in order; parts stand before their composite.
        broken: those with a finding.
    """

    calls: tuple[Site, ...]
    broken: tuple[Finding, ...]

    @property
    def guilty(self) -> Finding | None:
        """The first call that is at fault; an op that is missing or unjudged is none."""
        faults = (f for f in self.broken if self.counts(f) and f.what not in _NO_FAULT)
        return next(faults, None)

    def counts(self, finding: Finding) -> bool:
        """Whether a finding concerns what the judged backend does in a run of its own.

        A composite with a kernel of its own calls no parts; a composite made of parts is no more
        at fault than the first part that differs.
        """
        if finding.composite == "native":
            return False
        return finding.own == "native" or not self.parts_of(finding)

    def parts_of(self, finding: Finding) -> list[Finding]:
        """The findings on the parts of a composite's call."""
        return [f for f in self.broken if f.site.within == finding.site.name]

    def judged_parts(self, finding: Finding) -> list[str]:
        """Ops that were judged as parts of a composite's call, in order."""
        parts = (site.op for site in self.calls if site.within == finding.site.name)
        return list(dict.fromkeys(parts))

    def rows(self) -> Iterator["Row"]:
        """The findings by place and op, in order of their first call."""
        groups: dict[tuple[str, str, What], list[Finding]] = {}
        for finding in self.broken:
            key = (finding.site.place, finding.site.path, finding.what)
            groups.setdefault(key, []).append(finding)
        for (place, path, what), found in groups.items():
            calls = sum((s.place, s.path) == (place, path) for s in self.calls)
            yield Row(place, path, what, calls, found, self._remark(found))

    def _remark(self, found: Sequence[Finding]) -> str:
        first = found[0]
        if first.composite == "native":
            composite = first.site.path.split("/")[-2]
            return f"not called: {composite} has a kernel of its own"
        if first.own == "default" and self.parts_of(first):
            return f"follows from {self.parts_of(first)[0].site.op}"
        return ""


_NO_FAULT = (What.MISSING, What.UNJUDGED)


@dataclass(frozen=True)
class Row:
    """The findings of one kind on one op in one place.

    Attributes:
        place, path, what: of all of them.
        calls: how often the place calls the op.
        found: the findings, in order.
        remark: how they stand to other findings; empty if on their own.
    """

    place: str
    path: str
    what: What
    calls: int
    found: Sequence[Finding]
    remark: str
