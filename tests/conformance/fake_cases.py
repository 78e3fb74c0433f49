"""Catalogues whose cases do everything that a case can do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import torch

from glm5_hal import Level, Numerics, Runtime, Unsupported
from glm5_hal.conformance.case import FUNCTION, Case, Check, Evidence, Failure
from glm5_hal.conformance.compare import first_difference

LOG = "FAKE_CASES_LOG"
CHILD = "FAKE_CASES_CHILD"


def passes(runtime: Runtime) -> Evidence:
    return Evidence({"output0": "ab" * 32}, worst=0.5, ulps={0: 3, 1: 2})


def silent(runtime: Runtime) -> Evidence:
    return Evidence()


def fails(runtime: Runtime) -> NoReturn:
    wanted, found = torch.zeros(2, 3), torch.tensor([[0.0, 0.0, 0.0], [0.0, 2.0**-149, 1.0]])
    difference = first_difference((wanted,), (found,))
    assert difference is not None
    raise Failure(
        f"other bytes: {difference}",
        change="row 1 alone",
        difference=difference,
        hint="look at the tail",
    )


def raises(runtime: Runtime) -> NoReturn:
    raise ValueError("no such tile")


def exits(runtime: Runtime) -> NoReturn:
    sys.exit(4)


def segfaults(runtime: Runtime) -> Evidence:
    print("about to read address 0", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    return Evidence()


def is_killed(runtime: Runtime) -> Evidence:
    os.kill(os.getpid(), signal.SIGKILL)
    return Evidence()


def hangs(runtime: Runtime) -> Evidence:
    child = subprocess.Popen(["sleep", "600"])
    Path(os.environ[CHILD]).write_text(str(child.pid))
    time.sleep(600)
    return Evidence()


def lacks(op: str) -> Check:
    def check(runtime: Runtime) -> NoReturn:
        raise Unsupported(op, "not there")

    return check


def returns_nothing(runtime: Runtime) -> Evidence:
    return None  # type: ignore[return-value] # what a careless check does


def measures_nan(runtime: Runtime) -> Evidence:
    return Evidence(worst=float("nan"))


def sets_threads(runtime: Runtime) -> Evidence:
    torch.set_num_threads(torch.get_num_threads() + 1)
    return Evidence()


def case(name: str, check: Check, op: str = "topk", aspect: str = FUNCTION) -> Case:
    requirement = name.partition("/")[0]
    return Case(name, requirement, op, aspect, "parity", check, timeout=60.0)


def by_id(*cases: Case) -> dict[str, Case]:
    return {case.id: case for case in cases}


def good() -> dict[str, Case]:
    """What a backend that keeps its word looks like."""
    unclaimed = case("RUN-6/repeat/topk", fails, aspect=Level.THREAD_INVARIANT.value)
    return by_id(
        replace(case("TOPK-1/parity/a", passes), quick=True),
        case("TOPK-1/parity/b", passes),
        case("TOPK-5/invariance/a", passes, aspect=Level.BATCH_INVARIANT.value),
        case("RUN-1/repeat/topk", passes, aspect=Level.RUN_TO_RUN.value),
        unclaimed,
        case("TOPK-2/waived/a", fails),
        case("MLA-1/parity/a", lacks("mla_expanded"), op="mla_expanded"),
        case("LINEAR-1/parity/a", passes, op="linear"),
    )


def grown() -> dict[str, Case]:
    """The same in a later version: one case more."""
    new = case("RUN-1/repeat/topk-again", passes, aspect=Level.RUN_TO_RUN.value)
    return {**good(), new.id: new}


def wider() -> dict[str, Case]:
    """The same in an earlier version: its quick selection held one case more."""
    cases = good()
    left_out = replace(cases["TOPK-1/parity/b"], quick=True)
    return {**cases, left_out.id: left_out}


def shrunk() -> dict[str, Case]:
    """The same in a later version: one case less."""
    return {name: case for name, case in good().items() if name != "TOPK-1/parity/b"}


def bad() -> dict[str, Case]:
    """Every way not to pass."""
    return by_id(
        case("TOPK-1/parity/passes", passes),
        case("TOPK-1/parity/fails", fails),
        case("TOPK-1/parity/segfaults", segfaults),
        replace(case("TOPK-1/parity/hangs", hangs), timeout=1.0),
        case("TOPK-1/parity/is-killed", is_killed),
        case("TOPK-1/parity/raises", raises),
        case("TOPK-1/parity/exits", exits),
        case("TOPK-1/waived/passes", passes),
        case("TOPK-1/waived/fails", fails),
        case("TOPK-1/waived/raises", raises),
        case("TOPK-1/parity/last", passes),
    )


def mixed() -> dict[str, Case]:
    """One case of every outcome."""
    unclaimed = case("RUN-6/repeat/topk", fails, aspect=Level.THREAD_INVARIANT.value)
    return by_id(
        case("TOPK-1/parity/passes", passes),
        case("TOPK-1/parity/fails", fails),
        case("TOPK-1/waived/fails", fails),
        case("TOPK-1/waived/passes", passes),
        case("MLA-1/parity/a", lacks("mla_expanded"), op="mla_expanded"),
        unclaimed,
        case("TOPK-1/parity/segfaults", segfaults),
    )


def two_profiles() -> dict[str, Case]:
    """A case in both profiles, and one of the exact profile alone."""
    both = case("TOPK-1/parity/a", silent)
    return by_id(
        both,
        replace(both, id="exact/TOPK-1/parity/a", profile=Numerics.EXACT, quick=True),
        replace(both, id="exact/TOPK-1/parity/b", profile=Numerics.EXACT),
    )


def only_unclaimed() -> dict[str, Case]:
    """Nothing that would run."""
    return by_id(case("RUN-6/repeat/topk", passes, aspect=Level.THREAD_INVARIANT.value))


def one_failure() -> dict[str, Case]:
    """A failure between two passes."""
    return by_id(
        case("TOPK-1/parity/a", passes),
        case("TOPK-1/parity/b[1-2]", fails),
        case("TOPK-2/parity/a", passes),
    )


def slow() -> dict[str, Case]:
    """Cases that write down that they ran."""

    def note(name: str) -> Callable[[Runtime], Evidence]:
        def check(runtime: Runtime) -> Evidence:
            with Path(os.environ[LOG]).open("a") as file:
                file.write(f"{name}\n")
            time.sleep(0.2)
            return Evidence()

        return check

    return by_id(*(case(f"TOPK-1/parity/{n}", note(str(n))) for n in range(8)))


def step(name: str, *after: str, shares: str = "", then: Check = silent) -> Case:
    """A case that writes down which process began it, and waits for others to have begun."""

    def check(runtime: Runtime) -> Evidence:
        log = Path(os.environ[LOG])
        with log.open("a") as file:
            file.write(f"{name} {os.getpid()}\n")
        while not {line.partition(" ")[0] for line in log.read_text().splitlines()} >= {*after}:
            time.sleep(0.01)
        return then(runtime)

    return replace(case(f"TOPK-1/parity/{name}", check), shares=shares)


def both_begin() -> tuple[Case, Case]:
    """Two cases that pass only if two workers run."""
    return step("one", "two"), step("two", "one")


def shared() -> dict[str, Case]:
    """Two cases that share something, with another between them in time."""
    return by_id(
        *both_begin(),
        step("shared-1", "free", shares="thing"),
        step("shared-2", shares="thing"),
        step("free", "shared-2"),
    )


def shared_alone() -> dict[str, Case]:
    """Two cases that share something, of which one waits for the other."""
    return by_id(
        *both_begin(),
        step("shared-1", "shared-2", shares="thing"),
        step("shared-2", shares="thing"),
    )


def shared_by_the_dead() -> dict[str, Case]:
    """Cases that share something whose first maker dies while the other worker is busy."""
    return by_id(
        *both_begin(),
        step("shared-1", "free-1", shares="thing", then=segfaults),
        step("shared-2", shares="thing"),
        step("shared-3", shares="thing"),
        step("free-1", "free-2"),
        step("free-2"),
    )
