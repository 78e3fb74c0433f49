"""Runs of fake cases on a fake backend."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from glm5_hal.conformance.case import Case, Result
from glm5_hal.conformance.mustpass import frozen
from glm5_hal.conformance.runner import Outcome, Request, execute, prepare
from glm5_hal.conformance.sources import Source
from glm5_hal.conformance.suite import Suite

CLEAN = Suite("9.9", 1, "5" * 64, "c0ffee", dirty=False, state="a checkout without changes")


def source(catalogue: Callable[[], Mapping[str, Case]], lists: Path) -> Source:
    """A source of fake cases; its must-pass lists are frozen from them."""
    for wanted in frozen(catalogue()):
        wanted.freeze(lists)
    return Source(f"fake_cases:{catalogue.__name__}", "fake_chip.chip:resolve", lists)


def run(request: Request, out: Path) -> Outcome:
    """Run as a released suite, with one worker unless the request says otherwise."""
    job = prepare(request if request.workers else replace(request, workers=1))
    return execute(replace(job, suite=CLEAN), out, observe_nothing)


def observe_nothing(done: int, total: int, result: Result | None) -> None:
    """For a run that nobody watches."""
