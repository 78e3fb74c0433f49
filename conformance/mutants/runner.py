"""A mutation run: every mutant is judged by the cases of its op, and so is the sound backend."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import torch

from glm5_hal import Backend
from glm5_hal.conformance.case import Case, Result, Status
from glm5_hal.conformance.catalogue import catalogue
from glm5_hal.conformance.errors import AskedError
from glm5_hal.conformance.judge import judge, not_claimed
from glm5_hal.conformance.mutants.mutant import SOUND, Mutant, mutants, runtime_of
from glm5_hal.conformance.mutants.report import Finding, MutationReport
from glm5_hal.conformance.selection import closest
from glm5_hal.levels import Numerics
from glm5_hal.requirements import REQUIREMENTS

Observer = Callable[[int, int, Finding | None], None]
"""Called with (finished, in all, newest finding): at the start without, then after each."""

_COSTLY = "RUN-2"
"""Starts a process; run for the mutants that are about it only."""
_MODEL = "model"


@dataclass(frozen=True)
class _Task:
    """A mutant to examine, or cases that the sound backend has to pass."""

    mutant: str = ""
    control: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Judged:
    """What cases said of one backend."""

    cases: int
    failures: tuple[Result, ...]
    seconds: float


def run(
    names: Sequence[str] = (), workers: int = 2, progress: Observer | None = None
) -> MutationReport:
    """Judge mutants, and the backend without a fault by the same cases.

    Args:
        names: of mutants; all when empty.
        workers: number of processes; 1 works in this one.
        progress: told of each finding.

    Raises:
        AskedError: a mutant that does not exist, or no worker.
    """
    began = time.perf_counter()
    chosen = [_named(name) for name in dict.fromkeys(names)] or list(mutants().values())
    if workers < 1:
        raise AskedError(f"{workers} workers: at least one is needed")
    observe = progress or _nobody
    observe(0, len(chosen), None)
    findings: dict[str, Finding] = {}
    control: list[_Judged] = []
    for task, judged in _work(_tasks(chosen), workers):
        if task.mutant:
            findings[task.mutant] = _finding(mutants()[task.mutant], judged)
            observe(len(findings), len(chosen), findings[task.mutant])
        else:
            control.append(judged)
    return MutationReport(
        findings=tuple(findings[mutant.name] for mutant in chosen),
        control_cases=sum(judged.cases for judged in control),
        control_failures=tuple(result for judged in control for result in judged.failures),
        seconds=round(time.perf_counter() - began, 1),
    )


def cases_for(mutant: Mutant) -> list[Case]:
    """The quick cases that judge a mutant: those of its ops, and its requirement's.

    In the exact profile only those of its own requirements: to the others any byte is as good.
    """
    claims = mutant.backend_class.capabilities.claims.get(mutant.numerics, frozenset())
    return [
        case
        for case in catalogue().values()
        if case.quick
        and case.profile is mutant.numerics
        and _concerns(mutant, case)
        and not not_claimed(case, claims, mutant.name)
    ]


def _concerns(mutant: Mutant, case: Case) -> bool:
    if case.requirement == mutant.requirement:
        return case.op in mutant.ops or case.op == _MODEL or not mutant.ops
    if mutant.numerics is Numerics.EXACT and REQUIREMENTS[case.requirement].profile is None:
        return False
    return case.op in mutant.ops and case.requirement != _COSTLY


def _named(name: str) -> Mutant:
    if name not in mutants():
        raise AskedError(f"no mutant {name!r}; {closest(name, mutants())}")
    return mutants()[name]


def _nobody(done: int, total: int, finding: Finding | None) -> None:
    """The observer of a run that nobody watches."""


def _tasks(chosen: Sequence[Mutant]) -> list[_Task]:
    """Control cases by op, then mutants; those that run the model first, as they take longest."""
    needed = {case.id: case for mutant in chosen for case in cases_for(mutant)}
    groups: dict[tuple[Numerics, str], list[str]] = {}
    for case in needed.values():
        group = case.requirement if case.op == _MODEL else case.op
        groups.setdefault((case.profile, group), []).append(case.id)
    tasks = [_Task(control=tuple(ids)) for ids in groups.values()]
    tasks += [_Task(mutant.name) for mutant in chosen]
    return sorted(tasks, key=lambda task: not _runs_model(task))


def _runs_model(task: _Task) -> bool:
    names = task.control or tuple(case.id for case in cases_for(mutants()[task.mutant]))
    return any(catalogue()[name].op == _MODEL for name in names)


def _work(tasks: Sequence[_Task], workers: int) -> Iterator[tuple[_Task, _Judged]]:
    if workers == 1:
        yield from ((task, _do(task)) for task in tasks)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(threads,),
    ) as pool:
        pending = {pool.submit(_do, task): task for task in tasks}
        for future in as_completed(pending):
            yield pending[future], future.result()


def _do(task: _Task) -> _Judged:
    if task.mutant:
        mutant = mutants()[task.mutant]
        return _judge(mutant.backend_class, cases_for(mutant))
    cases = [catalogue()[name] for name in task.control]
    return _judge(SOUND[cases[0].profile], cases)


def _judge(backend_class: type[Backend], cases: Sequence[Case]) -> _Judged:
    began = time.perf_counter()
    runtime = runtime_of(backend_class)
    results = [judge(case, runtime) for case in cases]
    failures = tuple(result for result in results if result.status is not Status.PASS)
    return _Judged(len(results), failures, round(time.perf_counter() - began, 2))


def _finding(mutant: Mutant, judged: _Judged) -> Finding:
    return Finding(
        mutant=mutant.name,
        requirement=mutant.requirement,
        story=mutant.story,
        ops=tuple(sorted(mutant.ops)),
        cases=judged.cases,
        failures=judged.failures,
        seconds=judged.seconds,
    )
