"""A run: a selection of cases on one backend, in worker processes, resumable at any point."""

import datetime
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from glm5_hal import Backend, Plan
from glm5_hal.conformance.case import Case, Result, Status
from glm5_hal.conformance.errors import AskedError, UnusableError
from glm5_hal.conformance.judge import not_claimed, outcome, waive
from glm5_hal.conformance.machine import Machine, cpu_model
from glm5_hal.conformance.mustpass import MustPass
from glm5_hal.conformance.pool import Pool
from glm5_hal.conformance.records import Journal
from glm5_hal.conformance.selection import Selection
from glm5_hal.conformance.sources import SUITE, Source
from glm5_hal.conformance.suite import Suite
from glm5_hal.conformance.verdict import Shown, judged, problems
from glm5_hal.conformance.waivers import Waivers
from glm5_hal.conformance.worker import Setup
from glm5_hal.levels import Level

RUN_FILE = "run.json"
RESULTS_FILE = "results.jsonl"
MANIFEST_FILE = "manifest.json"

Observer = Callable[[int, int, Result | None], None]
"""Called with (finished, selected, newest result): at the start without, then after each."""


@dataclass(frozen=True)
class Request:
    """What a caller asks for.

    Attributes:
        backend: ``name[:index]``; None: from the environment.
        numerics: profile; None: from the environment.
        quick: the quick cases only.
        ops: these ops only.
        case: this case only.
        workers: number of processes; None: two on the CPU, one on an accelerator.
        source: where cases and backends come from.
        aspects: these aspects only.
    """

    backend: str | None = None
    numerics: str | None = None
    quick: bool = False
    ops: tuple[str, ...] = ()
    case: str | None = None
    workers: int | None = None
    source: Source = SUITE
    aspects: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """A request with every decision taken.

    Attributes:
        source: where cases come from.
        plan: which implementation answers each op.
        backend: the backend's class.
        selection: what was asked for.
        cases: the selected cases.
        waivers: the backend's.
        idle_waivers: globs of waivers that match no case of the profile.
        must_pass: the list it is held against.
        suite: which suite is running.
        workers: number of processes.
        threads: torch's threads in each.
    """

    source: Source
    plan: Plan
    backend: type[Backend]
    selection: Selection
    cases: Mapping[str, Case]
    waivers: Waivers
    idle_waivers: tuple[str, ...]
    must_pass: MustPass
    suite: Suite
    workers: int
    threads: int

    @property
    def claimed(self) -> frozenset[Level]:
        """Levels that the backend claims for the profile."""
        return self.backend.capabilities.claims.get(self.plan.numerics, frozenset())

    @property
    def profile_cases(self) -> list[Case]:
        """Every case of the profile, selected or not."""
        profile = self.plan.numerics
        return [case for case in self.source.cases().values() if case.profile is profile]

    @property
    def setup(self) -> Setup:
        """What every worker opens."""
        name = f"{self.plan.backend}:{self.plan.index}"
        return Setup(self.source, name, self.plan.numerics.value, self.threads)

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed."""
        return {
            "plan": self.plan.hash,
            "device index": self.plan.index,
            "processor": cpu_model(),
            "suite": self.suite.name,
            "source": self.suite.source,
            "dirty": self.suite.dirty,
            "selection": self.selection.to_dict(),
            "must-pass list": self.must_pass.sha256,
            "waivers": [waiver.to_dict() for waiver in self.waivers.entries],
        }


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        job: what was run.
        results: one a selected case, in the catalogue's order.
        started, ended: in UTC; across interruptions.
        resumed: number of results that were there already.
        machine: where it ran.
    """

    job: Job
    results: tuple[Result, ...]
    started: datetime.datetime
    ended: datetime.datetime
    resumed: int
    machine: Machine

    @property
    def problems(self) -> list[str]:
        """Why it has failed; empty when it has passed."""
        return problems(self.results, self.job.must_pass, partial=self.job.selection.partial)

    @property
    def judged(self) -> int:
        """Number of cases that ran to a judgement."""
        return judged(self.results)

    @property
    def shown(self) -> Shown:
        """What it shows."""
        return Shown.of(
            self.results,
            self.job.must_pass,
            partial=self.job.selection.partial,
            substituted=self.job.plan.substituted,
            dirty=self.job.suite.dirty,
        )


def prepare(request: Request) -> Job:
    """Take every decision of a run.

    Raises:
        SelectionError, BackendUnavailable: as `glm5_hal.plan.resolve`.
        AskedError: an op, a case or a number of workers that does not exist; a bad waivers.yaml.
        UnusableError: nothing is selected.
    """
    if request.workers is not None and request.workers < 1:
        raise AskedError(f"{request.workers} workers: at least one is needed")
    plan, backend, workers, threads = _resolve(request)
    selection = Selection(plan.numerics, request.quick, request.ops, request.case, request.aspects)
    catalogue = request.source.cases()
    cases = selection.of(catalogue)
    if not cases:
        raise UnusableError(f"no case is selected: {json.dumps(selection.to_dict())}")
    waivers = Waivers.beside(backend)
    known = [name for name, case in catalogue.items() if case.profile is plan.numerics]
    return Job(
        source=request.source,
        plan=plan,
        backend=backend,
        selection=selection,
        cases=cases,
        waivers=waivers,
        idle_waivers=waivers.idle(known),
        must_pass=MustPass.load(selection.list_name, request.source.lists),
        suite=Suite.here(),
        workers=workers,
        threads=threads,
    )


def _resolve(request: Request) -> tuple[Plan, type[Backend], int, int]:
    """Plan and class as a worker will see them: the plan names the number of threads."""
    most = torch.get_num_threads()
    workers = request.workers or min(2, os.cpu_count() or 1)
    with _threads(max(1, most // workers)) as threads:
        plan, backend = request.source.resolve(request.backend, request.numerics)
    if request.workers is None and plan.backend != "cpu":  # two processes would share the device
        plan, backend = request.source.resolve(request.backend, request.numerics)
        return plan, backend, 1, most
    return plan, backend, workers, threads


@contextmanager
def _threads(number: int) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield number
    finally:
        torch.set_num_threads(before)


def execute(job: Job, out: Path, observe: Observer) -> Outcome:
    """Run what has not been run yet; `out` then holds run.json and results.jsonl.

    Raises:
        AskedError: `out` holds another run, or something else.
        UnusableError: workers do not start.
    """
    now = datetime.datetime.now(datetime.UTC)
    started = _enter(job, out, now)
    with Journal(out / RESULTS_FILE) as journal:
        finished = {name: r for name, r in journal.finished.items() if name in job.cases}
        resumed = len(finished)
        finished |= _unclaimed(job)
        observe(len(finished), len(job.cases), None)
        with Pool(job.setup, job.plan, job.workers) as pool:
            todo = [case for name, case in job.cases.items() if name not in finished]
            for raw in pool.run(todo):
                result = waive(raw, job.waivers, started.date())
                journal.append(result)
                finished[result.id] = result
                observe(len(finished), len(job.cases), result)
            machine = Machine.here(pool.device, pool.device_name)
    ended = None if todo else _ended_before(out)
    return Outcome(
        job=job,
        results=tuple(finished[name] for name in job.cases),
        started=started,
        ended=ended or datetime.datetime.now(datetime.UTC).replace(microsecond=0),
        resumed=resumed,
        machine=machine,
    )


def _unclaimed(job: Job) -> dict[str, Result]:
    found = {}
    for name, case in job.cases.items():
        if reason := not_claimed(case, job.claimed, job.plan.backend):
            found[name] = outcome(case, job.plan, Status.NOT_RUN, 0.0, reason)
    return found


def _enter(job: Job, out: Path, now: datetime.datetime) -> datetime.datetime:
    """Make or re-enter the directory of a run; returns when the run began."""
    path = out / RUN_FILE
    if not path.exists():
        new = out / f".{RUN_FILE}"
        if out.exists() and (not out.is_dir() or any(path != new for path in out.iterdir())):
            raise AskedError(f"{out} is not empty and holds no run; choose another --out")
        out.mkdir(parents=True, exist_ok=True)
        run = {"identity": job.identity, "started": now.isoformat(timespec="seconds")}
        new.write_text(json.dumps(run, indent=2) + "\n", "utf-8")
        new.replace(path)
        return now.replace(microsecond=0)
    try:
        run = json.loads(path.read_text("utf-8"))
        before, started = dict(run["identity"]), datetime.datetime.fromisoformat(run["started"])
    except (ValueError, KeyError, TypeError) as error:
        raise AskedError(f"{path} is damaged ({error}); choose another --out") from error
    changed = [key for key, value in job.identity.items() if before.get(key) != value]
    if changed:
        raise AskedError(
            f"{out} holds a run that cannot be resumed, because it differs in: "
            f"{', '.join(changed)}. Choose another --out, or remove it."
        )
    return started


def _ended_before(out: Path) -> datetime.datetime | None:
    """When a run ended that is complete already, so that asking again changes nothing."""
    try:
        manifest = json.loads((out / MANIFEST_FILE).read_text("utf-8"))
        return datetime.datetime.fromisoformat(manifest["ended"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
