"""Names of the op calls of a run: ``layer3.linear#2``, ``pass1:layer0.dsa_select#0/topk#0``."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """Which op call of a run.

    Attributes:
        op: name of the op.
        place: part of the model: ``layer3``, ``mtp``, or ``model`` for what stands around.
        number: calls of this op that the place, or the composite, had before in this pass.
        step: number of the forward pass.
        within: name of the composite's call that this one is a part of; empty if the model's own.
    """

    op: str
    place: str
    number: int
    step: int = 0
    within: str = ""

    @property
    def name(self) -> str:
        """Unlike that of any other call of the run."""
        if self.within:
            return f"{self.within}/{self.op}#{self.number}"
        ahead = f"pass{self.step}:" if self.step else ""
        return f"{ahead}{self.place}.{self.op}#{self.number}"

    @property
    def path(self) -> str:
        """The op, behind the composites that it is a part of: ``dsa_select/topk``."""
        names = [part.split("#")[0] for part in self.name.split("/")]
        return "/".join([names[0].rpartition(".")[2], *names[1:]])

    @property
    def composite(self) -> str:
        """The op that this call is a part of; empty if it is the model's own."""
        return self.within.split("/")[-1].split("#")[0].rpartition(".")[2]

    def chosen(self, selectors: Sequence[str]) -> bool:
        """Whether a selector names the call: its place, ``place.op``, or the name of a call."""
        return any(s in (self.place, f"{self.place}.{self.op}", self.name) for s in selectors)


class Counting:
    """Gives each call of a run its name."""

    def __init__(self) -> None:
        self._step = 0
        self._counts: Counter[tuple[str, str]] = Counter()
        self._open: list[Site] = []

    def next_pass(self) -> None:
        """Another forward pass begins: numbers start from 0 again."""
        if self._counts:
            self._step += 1
        self._counts.clear()

    def enter(self, op: str, place: str) -> Site:
        """A call begins; calls until `leave` are parts of it."""
        within = self._open[-1].name if self._open else ""
        key = (within or place, op)
        site = Site(op, place, self._counts[key], self._step, within)
        self._counts[key] += 1
        self._open.append(site)
        return site

    def leave(self) -> None:
        """The newest call ends."""
        self._open.pop()
