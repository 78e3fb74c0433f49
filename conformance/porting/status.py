"""Where each op of a backend stands, from a quick conformance run of those that are written."""

import enum
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from glm5_hal import Backend, Plan
from glm5_hal.conformance.case import FUNCTION, Result, Status
from glm5_hal.conformance.porting.served import Calls, recorded
from glm5_hal.conformance.runner import Observer, Request, execute, prepare
from glm5_hal.conformance.verdict import BROKEN, JUDGED
from glm5_hal.contract import OPS, Kind
from glm5_hal.plan import resolve
from glm5_hal.porting.unwritten import place_of
from glm5_hal.requirements import op_of


class State(enum.Enum):
    """How an op stands."""

    MISSING = "missing"
    """Neither written nor made of other ops."""
    FAILING = "failing"
    """A case that counts is broken."""
    UNJUDGED = "not judged"
    """No case of its own requirements ran: they are for levels that the backend does not claim."""
    PASSES = "passes"
    """Every case that counts passes, or is waived with a reason."""


@dataclass(frozen=True)
class OpStatus:
    """One op.

    Attributes:
        op: its name.
        state: how it stands.
        passed: cases that pass.
        judged: cases that ran.
        first: the case to look at first: of the op's first requirement that is broken, or that was
            not judged.
        place: file, and line where it is known, to write or mend it in.
    """

    op: str
    state: State
    passed: int
    judged: int
    first: Result | None
    place: str


@dataclass(frozen=True)
class Port:
    """A backend under way.

    Attributes:
        plan: what answers each op.
        calls: what the model calls.
        ops: what is left first, the most called first.
    """

    plan: Plan
    calls: Calls
    ops: tuple[OpStatus, ...]

    @property
    def left(self) -> tuple[OpStatus, ...]:
        """Ops to write or to mend."""
        return tuple(op for op in self.ops if op.state is not State.PASSES)

    def native(self, part: Mapping[str, int]) -> int:
        """Calls of a part of the model that run on the backend and are right."""
        good = {op.op for op in self.ops if op.state is State.PASSES}
        return sum(count for name, count in part.items() if name in good)


def status(backend: str | None, numerics: str | None, observe: Observer) -> Port:
    """Judge what is written.

    Args:
        backend: ``name[:index]``; None: from the environment.
        numerics: profile; None: from the environment.
        observe: told about the progress of the run.

    Raises:
        SelectionError, BackendUnavailable: as `glm5_hal.plan.resolve`.
        UnusableError: the worker process does not start.
    """
    plan, cls = resolve(backend, numerics)
    written = [name for name, found in plan.ops.items() if found.source == "native"]
    results = _judged(backend, numerics, written, observe) if written else ()
    wanted = [name for name, op in OPS.items() if op.kind is Kind.PRIMITIVE or name in written]
    calls = recorded()
    found = [_status_of(name, cls, name in written, results) for name in wanted]
    found.sort(key=lambda op: (op.state is State.PASSES, -calls.share(op.op)))
    return Port(plan, calls, tuple(found))


def _judged(
    backend: str | None, numerics: str | None, ops: Sequence[str], observe: Observer
) -> tuple[Result, ...]:
    job = prepare(Request(backend, numerics, quick=True, ops=tuple(ops)))
    with tempfile.TemporaryDirectory(prefix="glm5-hal-") as folder:
        return execute(job, Path(folder), observe).results


def _status_of(op: str, cls: type[Backend], written: bool, results: Sequence[Result]) -> OpStatus:
    place = place_of(cls, op)
    if not written:
        return OpStatus(op, State.MISSING, 0, 0, None, place)
    own = [result for result in results if result.op == op]
    state, to_mend = State.PASSES, []
    if broken := [result for result in own if result.status in BROKEN]:
        state, to_mend = State.FAILING, broken
    elif not any(op_of(r.requirement) == op and r.status in JUDGED for r in own):
        state, to_mend = State.UNJUDGED, [r for r in own if op_of(r.requirement) == op]
    return OpStatus(
        op=op,
        state=state,
        passed=sum(result.status is Status.PASS for result in own),
        judged=sum(result.status in JUDGED for result in own),
        first=min(to_mend, key=_weight, default=None),
        place=place,
    )


def _weight(result: Result) -> tuple[int, bool]:
    """What is to be mended first weighs least: what the op is, in order, then how it behaves."""
    own = list(OPS[result.op].requirements)
    known = result.requirement in own
    return own.index(result.requirement) if known else len(own), result.aspect != FUNCTION
