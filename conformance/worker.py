"""A worker process: opens a runtime of its own and judges the cases it is sent, one by one."""

import faulthandler
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

from glm5_hal import Runtime
from glm5_hal.conformance.case import Case
from glm5_hal.conformance.judge import judge
from glm5_hal.conformance.sources import Source

TIMEOUT_EXIT = 1
"""Exit code after faulthandler has dumped the stacks of a case that ran too long."""


@dataclass(frozen=True)
class Setup:
    """What a worker needs to know.

    Attributes:
        source: where cases and backends come from.
        backend: ``name:index``.
        numerics: numeric profile.
        threads: torch's threads in this process.
    """

    source: Source
    backend: str
    numerics: str
    threads: int


@dataclass(frozen=True)
class Ready:
    """A worker's first message when it could open its runtime.

    Attributes:
        plan_hash: what it decided, to be the same in every process.
        device: the torch device.
        device_name: what the device calls itself.
    """

    plan_hash: str
    device: str
    device_name: str


@dataclass(frozen=True)
class Broken:
    """A worker's only message when it could not."""

    message: str


def main(setup: Setup, log: str, connection: Connection) -> None:
    """Serve until None is sent or the parent is gone.

    Args:
        setup: what to open.
        log: file that takes everything the process prints.
        connection: gets `Ready` or `Broken`, then a `Result` for every case id sent.
    """
    os.setsid()  # a group of its own: killed as a whole, and deaf to the terminal's Ctrl-C
    _print_to(log)
    faulthandler.enable()
    try:
        runtime, cases = _open(setup)
        ready = Ready(runtime.plan.hash, str(runtime.backend.device), _device_name(runtime))
    except Exception as error:
        connection.send(Broken(f"{type(error).__name__}: {error}"))
        return
    try:
        connection.send(ready)
        for name in iter(connection.recv, None):
            _judge_one(cases[name], runtime, setup.threads, connection)
    except (EOFError, BrokenPipeError):
        return  # the parent is gone; what it has on disk is enough to resume


def _print_to(log: str) -> None:
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        stream.flush()
        os.dup2(target, number)
    os.close(target)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def _open(setup: Setup) -> tuple[Runtime, Mapping[str, Case]]:
    torch.set_num_threads(setup.threads)
    plan, backend = setup.source.resolve(setup.backend, setup.numerics)
    return Runtime(plan, backend(plan.index)), setup.source.cases()


def _judge_one(case: Case, runtime: Runtime, threads: int, connection: Connection) -> None:
    # a watchdog that needs neither the interpreter lock nor the parent
    faulthandler.dump_traceback_later(case.timeout, exit=True)
    result = judge(case, runtime)
    faulthandler.cancel_dump_traceback_later()
    torch.set_num_threads(threads)  # whatever the check left behind
    connection.send(result)


def _device_name(runtime: Runtime) -> str:
    device = runtime.backend.device
    if device.type == "cpu":
        return "cpu"
    name = getattr(torch.get_device_module(device), "get_device_name", None)
    return str(name(device)) if name else str(device)
