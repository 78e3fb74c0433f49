"""What a benchmark found, as data: raw samples, and what follows from them."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from glm5_hal.conformance.bench.cases import OpCase
from glm5_hal.conformance.bench.floor import Floor
from glm5_hal.conformance.bench.peaks import Peaks
from glm5_hal.conformance.bench.spread import Spread, pair_ratios
from glm5_hal.conformance.bench.work import Work
from glm5_hal.conformance.machine import Machine

SCHEMA = 1
"""Of bench.json."""
OURS = "ours"
PHASES = ("prefill", "decode")


@dataclass
class OpResult:
    """One case.

    Attributes:
        case: what was timed.
        samples: side to the answers of its processes, one a round (see `child.op`).
        not_run: side to the reason.
        peer: the other side; empty where there is none.
    """

    case: OpCase
    peer: str
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)

    def seconds(self, side: str) -> list[float]:
        """Of a call, one a round: the median of the round's samples."""
        return [statistics.median(found["seconds"]) for found in self.samples.get(side, [])]

    def spread(self, side: str) -> Spread | None:
        """Over the rounds; None where the side did not run."""
        return _spread(self.seconds(side))

    @property
    def ratio(self) -> Spread | None:
        """Ours to the peer's, pair by pair; below 1 is faster."""
        return _ratio(self.seconds(OURS), self.seconds(self.peer))

    @property
    def work(self) -> Work | None:
        """The least that a call does."""
        found = self.samples.get(OURS)
        return Work(**found[0]["work"]) if found else None

    def share(self, peaks: Peaks) -> float | None:
        """Of the floor in our time: 1 is as fast as the machine allows."""
        ours, work = self.spread(OURS), self.work
        return work.seconds(peaks) / ours.median if ours and work else None

    def bytes(self, side: str) -> int | None:
        """The most memory that calls took beyond their inputs: on the device, if it is counted."""
        taken = (
            s["host_bytes"] if s["device_bytes"] is None else s["device_bytes"]
            for s in self.samples.get(side, [])
        )
        return max((size for size in taken if size is not None), default=None)

    def to_dict(self, peaks: Peaks) -> dict[str, Any]:
        """Plain data, for JSON."""
        work = self.work
        return {
            "id": self.case.id,
            "op": self.case.op,
            "sizes": dict(self.case.sizes),
            "expression": self.case.expression or None,
            "peer": self.peer or None,
            "seconds": {side: _plain(self.spread(side)) for side in self.samples},
            "ratio": _plain(self.ratio),
            "work": vars(work) if work else None,
            "floor_seconds": work.seconds(peaks) if work else None,
            "share_of_floor": self.share(peaks),
            "not_run": self.not_run,
            "samples": self.samples,
        }


@dataclass
class ModelResult:
    """One context of a model.

    Attributes:
        context: prompt tokens.
        peer: the other side; empty where there is none.
        floors: phase to its least work.
        runs: side to the answers of its processes, one a round (see `child.model`).
        not_run: side to the reason.
    """

    context: int
    peer: str
    floors: Mapping[str, Floor]
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)

    def seconds(self, side: str, phase: str) -> list[float]:
        """One a round: of a prefill, or the median of the decode steps."""
        runs = self.runs.get(side, [])
        if phase == "prefill":
            return [run["prefill"] for run in runs]
        return [statistics.median(run["decode"]) for run in runs]

    def spread(self, side: str, phase: str) -> Spread | None:
        """Over the rounds; None where the side did not run."""
        return _spread(self.seconds(side, phase))

    def ratio(self, phase: str) -> Spread | None:
        """Ours to the peer's, pair by pair; below 1 is faster."""
        return _ratio(self.seconds(OURS, phase), self.seconds(self.peer, phase))

    def gain(self, phase: str) -> Spread | None:
        """How many times as fast ours is, pair by pair."""
        return _ratio(self.seconds(self.peer, phase), self.seconds(OURS, phase))

    def share(self, phase: str, peaks: Peaks) -> float | None:
        """Of the floor in our time: 1 is as fast as the machine allows."""
        ours = self.spread(OURS, phase)
        return self.floors[phase].seconds(peaks) / ours.median if ours else None

    def bytes(self, side: str) -> dict[str, Spread]:
        """Peak memory over the rounds: on the host above the libraries', and on a device."""
        taken = [run["memory"] for run in self.runs.get(side, [])]
        host = [
            m["peak"] - m["before"]
            for m in taken
            if m["peak"] is not None and m["before"] is not None
        ]
        device = [m["device"] for m in taken if m["device"] is not None]
        found = {"host": _spread(host), "device": _spread(device)}
        return {place: spread for place, spread in found.items() if spread is not None}

    def to_dict(self, peaks: Peaks) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "context": self.context,
            "peer": self.peer or None,
            "phases": {phase: self._phase(phase, peaks) for phase in PHASES},
            "memory_bytes": {
                side: {place: _plain(found) for place, found in self.bytes(side).items()}
                for side in self.runs
            },
            "not_run": self.not_run,
            "runs": self.runs,
        }

    def _phase(self, phase: str, peaks: Peaks) -> dict[str, Any]:
        return {
            "seconds": {side: _plain(self.spread(side, phase)) for side in self.runs},
            "ratio": _plain(self.ratio(phase)),
            "floor": self.floors[phase].to_dict(peaks),
            "share_of_floor": self.share(phase, peaks),
        }


def _spread(values: Sequence[float]) -> Spread | None:
    return Spread.of(values) if values else None


def _ratio(ours: Sequence[float], peer: Sequence[float]) -> Spread | None:
    return Spread.of(pair_ratios(ours, peer)) if ours and peer else None


def _plain(spread: Spread | None) -> dict[str, object] | None:
    return spread.to_dict() if spread else None


@dataclass(frozen=True)
class Where:
    """Where a benchmark ran.

    Attributes:
        machine: as the conformance suite records it.
        instruction_sets: of the processor, those that matter to products.
        threads: of each process.
        plan: the plan with its hash, as plain data.
        clock_resolution: of the clock, in seconds.
        load: mean number of runnable processes over a minute, before anything was measured; None
            where the system does not say.
        peaks: measured before and after; the better counts.
    """

    machine: Machine
    instruction_sets: tuple[str, ...]
    threads: int
    plan: Mapping[str, Any]
    clock_resolution: float
    load: float | None
    peaks: Peaks

    @property
    def busy(self) -> str:
        """A warning if others were at work; empty if not."""
        if self.load is None or self.load < BUSY:
            return ""
        return (
            f"the machine was busy: load {self.load:.1f} on {self.machine.cores} cores before the "
            "first run; take these times for a smoke test"
        )


BUSY = 0.5
"""A load from which on the times say little: a benchmark wants the machine for itself."""


@dataclass(frozen=True)
class Report:
    """A finished benchmark.

    Attributes:
        started: in UTC, ISO 8601.
        settings: what was asked for.
        where: where it ran.
        ops: of `--ops`.
        model: name or directory of the model; empty without one.
        peer: of the model, with its version; empty without one.
        contexts: of `--model`.
    """

    started: str
    settings: Mapping[str, Any]
    where: Where
    ops: Sequence[OpResult]
    model: str
    peer: str
    contexts: Sequence[ModelResult]

    def to_dict(self) -> dict[str, Any]:
        """bench.json."""
        where, peaks = self.where, self.where.peaks
        return {
            "kind": "glm5-hal bench",
            "schema": SCHEMA,
            "started": self.started,
            "settings": dict(self.settings),
            "machine": {
                **asdict(where.machine),
                "instruction_sets": list(where.instruction_sets),
                "threads": where.threads,
                "clock_resolution": where.clock_resolution,
                "load_before": where.load,
                "busy": where.busy or None,
            },
            "peaks": vars(peaks),
            "plan": dict(where.plan),
            "ops": [result.to_dict(peaks) for result in self.ops],
            "model": self.model or None,
            "peer": self.peer or None,
            "contexts": [result.to_dict(peaks) for result in self.contexts],
        }
