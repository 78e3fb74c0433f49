"""Running a model under watch, and what may be concluded."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import Tensor

from glm5_hal import Runtime, Unsupported
from glm5_hal.conformance.bisect.asking import Asker
from glm5_hal.conformance.bisect.explaining import Explanation, explain
from glm5_hal.conformance.bisect.findings import Findings
from glm5_hal.conformance.bisect.growth import Growth
from glm5_hal.conformance.bisect.lockstep import Lockstep
from glm5_hal.conformance.bisect.matching import Matches, match
from glm5_hal.conformance.bisect.observed import Observed, named_weights
from glm5_hal.conformance.bisect.traces import Recorder, Traced
from glm5_hal.conformance.errors import UnusableError
from glm5_hal.model.generate import sequence_logits
from glm5_hal.model.glm5 import GLM5
from glm5_hal.place import place

Load = Callable[[Runtime], GLM5]
"""Loads the model onto a runtime."""
Progress = Callable[[int, int], None]
"""Told (tokens done, tokens in all)."""
Watch = Callable[[], AbstractContextManager[Progress | None]]
"""Opens a display for one run of the model."""


@dataclass(frozen=True)
class Prompts:
    """What is run.

    Attributes:
        sequences: token ids.
        chunk: tokens of a sequence in a pass; None: all.
        watch: opened for each run.
    """

    sequences: Sequence[Sequence[int]]
    chunk: int | None = None
    watch: Watch = nullcontext

    def run(self, model: GLM5, runtime: Observed) -> list[Tensor]:
        """Logits of every sequence; calls are told as they are made."""
        try:
            with self.watch() as progress:
                return sequence_logits(
                    model,
                    self.sequences,
                    chunk=self.chunk,
                    before=lambda rows, step: runtime.next_pass(),
                    progress=progress,
                )
        except Unsupported as error:
            name = runtime.plan.backend
            raise UnusableError(
                f"backend {name!r} cannot run the model itself: {error}. Let a backend run it that "
                "has every op: --against cpu"
            ) from error


@dataclass(frozen=True)
class Bisection:
    """What came of a bisection in the exact profile.

    Attributes:
        findings: call by call, with identical inputs.
        explanation: of the first call at fault; None if none is.
        own: the judged backend's own run held against the other's, where no call is at fault.
    """

    findings: Findings
    explanation: Explanation | None
    own: Matches | None

    @property
    def differs(self) -> bool:
        """Whether anything is at fault."""
        apart = self.own is not None and (self.own.guilty or self.own.foundling)
        return self.findings.guilty is not None or bool(apart)

    @property
    def unjudged(self) -> bool:
        """Whether some calls could not be judged."""
        return any(self.findings.counts(finding) for finding in self.findings.broken)


def bisect(judged: Runtime, against: Runtime, load: Load, prompts: Prompts) -> Bisection:
    """Ask a backend every call of another backend's run, and explain the first that differs.

    Where none differs the judged backend runs the model itself: what it keeps between calls shows
    there alone.

    Raises:
        UnusableError: `against` lacks an op, or `judged` answers none.
    """
    recorder = Recorder()
    lockstep = Lockstep(judged, against, recorder.see)
    model = load(lockstep.runtime)
    lockstep.name_weights(model.weights)
    prompts.run(model, lockstep.runtime)
    found = lockstep.findings
    if len(found.broken) == len(found.calls) and found.guilty is None:
        raise UnusableError(
            f"backend {judged.plan.backend!r} answers no call of this model: "
            f"{found.broken[0].message}"
        )
    if lockstep.exhibit is not None:
        return Bisection(found, _explained(lockstep, against), None)
    if found.broken:
        return Bisection(found, None, None)
    return Bisection(found, None, match(traced(judged, load, prompts).calls, recorder.calls))


def _explained(lockstep: Lockstep, against: Runtime) -> Explanation:
    assert lockstep.exhibit is not None
    other = Asker(Runtime(against.plan, against.backend))
    for weight, value in lockstep.runtime.weights:
        other.know(value, weight)
    with place(lockstep.exhibit.finding.site.place):
        return explain(lockstep.asker, other, lockstep.exhibit)


@dataclass(frozen=True)
class TracedRun:
    """A run and its prints.

    Attributes:
        recorder: what was recorded.
        weights: name in the model to digest.
        logits: of each sequence.
    """

    recorder: Recorder
    weights: dict[str, str]
    logits: list[Tensor]

    @property
    def calls(self) -> list[Traced]:
        """The calls."""
        return self.recorder.calls


def traced(runtime: Runtime, load: Load, prompts: Prompts, whole: Sequence[str] = ()) -> TracedRun:
    """Run a model and take the prints of every call; those that `whole` selects are kept."""
    recorder = Recorder(whole)
    watched = Observed(runtime.plan, runtime.backend, recorder.see, keep=recorder.keep)
    model = load(watched)
    weights = dict(named_weights(watched, model.weights))
    logits = prompts.run(model, watched)
    return TracedRun(recorder, {n: v.print.sha256 for n, v in weights.items()}, logits)


def grown(judged: Runtime, against: Runtime, load: Load, prompts: Prompts) -> Growth:
    """Measure both backends against float64, call by call of the other's run."""
    growth = Growth(judged, against)
    prompts.run(load(growth.runtime), growth.runtime)
    return growth
