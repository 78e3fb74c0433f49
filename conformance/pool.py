"""Worker processes that may die: each death or hang is a result, and a new worker takes over."""

import contextlib
import multiprocessing
import os
import signal
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType

from glm5_hal import Plan
from glm5_hal.conformance.case import Case, Result, Status
from glm5_hal.conformance.errors import UnusableError
from glm5_hal.conformance.judge import outcome
from glm5_hal.conformance.worker import TIMEOUT_EXIT, Broken, Ready, Setup, main

START_SECONDS = 300.0
"""Longest time from a worker's birth to its being ready."""
GRACE_SECONDS = 5.0
"""Time after a case's timeout in which the worker may still end itself."""
MOST_LOST = 3
"""Workers in a row that die without a case: then the device is taken for lost."""
_SAID = 1000
"""Bytes quoted of the beginning, and of the end, of what a dead worker printed."""


@dataclass
class _Worker:
    """A process and what it is doing."""

    process: SpawnProcess
    connection: Connection
    log: Path
    since: float = field(default_factory=time.monotonic)
    ready: bool = False
    case: Case | None = None
    made: set[str] = field(default_factory=set)
    said_before: int = 0
    said_until: int = 0

    @property
    def deadline(self) -> float:
        """When it counts as hanging, on the monotonic clock."""
        if self.case is not None:
            return self.since + self.case.timeout + GRACE_SECONDS
        return float("inf") if self.ready else self.since + START_SECONDS

    def begin(self, case: Case) -> bool:
        """Send it a case; False if it has died since the last one."""
        try:
            self.connection.send(case.id)
        except (BrokenPipeError, ConnectionResetError):
            return False
        self.case, self.since = case, time.monotonic()
        if case.shares:
            self.made.add(case.shares)
        self.said_before = self.said_until
        return True

    def said(self) -> str:
        """What it printed since its case began, shortened in the middle."""
        with self.log.open("rb") as file:
            file.seek(self.said_before)
            head = file.read(_SAID)
            file.seek(max(file.tell(), self.log.stat().st_size - _SAID))
            tail = file.read(_SAID)
        between = b"" if len(head) + len(tail) < 2 * _SAID else b"\n...\n"
        text = (head + between + tail).decode(errors="replace")
        kept = [line for line in text.splitlines() if not line.startswith("Extension modules:")]
        return "\n".join(kept).strip()

    def kill(self) -> int:
        """End it with all that it started; returns its exit code."""
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):  # it died before it had a group of its own
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        code = self.process.exitcode or 0
        self.process.close()
        self.connection.close()
        return code


class Pool:
    """Workers of one setup; use as a context manager, or close it.

    Args:
        setup: what each worker opens.
        plan: what each worker must decide.
        workers: how many.

    Attributes:
        device: the torch device, once a worker is ready.
        device_name: what it calls itself.
    """

    def __init__(self, setup: Setup, plan: Plan, workers: int) -> None:
        self._setup = setup
        self._plan = plan
        self._size = workers
        self._workers: list[_Worker] = []
        self._lost = 0
        self._born = 0
        self._folder = tempfile.TemporaryDirectory(prefix="glm5-hal-")
        self._context = multiprocessing.get_context("spawn")
        self.device = ""
        self.device_name = ""

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every worker."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()
        self._folder.cleanup()

    def run(self, cases: Iterable[Case]) -> Iterator[Result]:
        """Judge cases; results come in the order in which they finish.

        One worker starts even for no case, to tell the device.

        Raises:
            UnusableError: workers do not become ready.
        """
        waiting = deque(cases)
        while waiting or not self.device or any(worker.case for worker in self._workers):
            self._feed(waiting)
            yield from self._listen()

    def _feed(self, waiting: deque[Case]) -> None:
        busy = sum(worker.case is not None for worker in self._workers)
        while len(self._workers) < min(self._size, max(1, busy + len(waiting))):
            self._workers.append(self._start())
        for worker in self._workers:
            if waiting and worker.ready and worker.case is None:
                place = self._next(worker, waiting)
                if worker.begin(waiting[place]):
                    del waiting[place]

    def _next(self, worker: _Worker, waiting: deque[Case]) -> int:
        """Place of the first case whose shared thing no other alone has made; else of the first."""
        others = {name for other in self._workers for name in other.made} - worker.made
        return next((n for n, case in enumerate(waiting) if case.shares not in others), 0)

    def _start(self) -> _Worker:
        self._born += 1
        log = Path(self._folder.name) / f"worker-{self._born}.log"
        log.touch(mode=0o600)
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=main, args=(self._setup, str(log), theirs), name=f"worker-{self._born}"
        )
        process.start()
        theirs.close()
        return _Worker(process, ours, log)

    def _listen(self) -> Iterator[Result]:
        """Wait for the next thing that happens, and deal with everything that has."""
        until = min((worker.deadline for worker in self._workers), default=0.0)
        signs = [s for w in self._workers for s in (w.connection, w.process.sentinel)]
        pause = min(max(0.0, until - time.monotonic()), 3600.0)
        happened = set(wait(signs, timeout=pause))
        for worker in list(self._workers):
            alive = True
            if worker.connection in happened:
                message = _receive(worker.connection)
                alive = message is not None
                if isinstance(message, Result):
                    worker.case, self._lost = None, 0
                    worker.said_until = worker.log.stat().st_size
                    yield message
                elif message is not None:
                    self._hear(worker, message)
            elif worker.process.sentinel in happened:
                alive = False
            if not alive or time.monotonic() > worker.deadline:
                yield from self._bury(worker)

    def _hear(self, worker: _Worker, message: Ready | Broken) -> None:
        if isinstance(message, Broken):
            raise UnusableError(f"a worker cannot open the backend: {message.message}")
        if message.plan_hash != self._plan.hash:
            raise UnusableError(
                f"a worker decided on plan {message.plan_hash}, this process on {self._plan.hash}: "
                "the environment of the two differs"
            )
        worker.ready = True
        self.device, self.device_name = message.device, message.device_name

    def _bury(self, worker: _Worker) -> Iterator[Result]:
        """Take a dead or hanging worker away; the case it had is finished with it."""
        late = time.monotonic() > worker.deadline
        self._workers.remove(worker)
        said, lasted = worker.said(), time.monotonic() - worker.since
        code = worker.kill()
        case = worker.case
        if case is None:
            self._lost += 1
            if not self.device or self._lost >= MOST_LOST:
                how = "is not ready after" if late else f"died ({death(code)}) after"
                raise UnusableError(f"a worker {how} {lasted:.0f} s{_quoted(said)}")
            return
        if late or (lasted >= case.timeout and code == TIMEOUT_EXIT):
            message = f"not finished after {case.timeout:g} s{_quoted(said)}"
            yield outcome(case, self._plan, Status.TIMEOUT, lasted, message)
        else:
            message = f"the worker process died ({death(code)}){_quoted(said)}"
            yield outcome(case, self._plan, Status.CRASH, lasted, message)


def _receive(connection: Connection) -> Ready | Broken | Result | None:
    try:
        message: Ready | Broken | Result = connection.recv()
    except (EOFError, OSError):
        return None
    return message


def _quoted(said: str) -> str:
    return f"; it printed:\n{said}" if said else ""


def death(code: int) -> str:
    """An exit code in words; a negative one is a signal."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"{name}: kill -9, or out of memory" if name == "SIGKILL" else name
