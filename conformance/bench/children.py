"""The processes that measure, seen from the one that compares."""

import json
import os
import subprocess
import sys
from collections import deque
from contextlib import ExitStack, suppress
from threading import Thread
from types import TracebackType
from typing import Any, Self

from glm5_hal.conformance.errors import ConformanceError

_SAID = 30
"""Lines kept of what a process printed."""


class BenchError(ConformanceError):
    """A process that measures has failed; the message holds what it said."""


class NotRunError(ConformanceError):
    """One measurement cannot be had; the message says why. The others go on."""


class Child:
    """A process of its own for one side; a context manager.

    Args:
        threads: that torch and OpenMP may use in it.
    """

    def __init__(self, threads: int) -> None:
        # -P: a working directory that holds folders of the same names must not be imported from
        command = [sys.executable, "-P", "-m", "glm5_hal.conformance.bench.child"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            start_new_session=True,  # Ctrl-C reaches us, and we end it
        )
        self._said: deque[str] = deque(maxlen=_SAID)
        self._listener = Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def alive(self) -> bool:
        """Whether it can still be asked."""
        return self._process.poll() is None

    def ask(self, job: str, **parts: Any) -> dict[str, Any]:
        """Have a job done (`child.JOBS`) and return its answer.

        Raises:
            NotRunError: memory does not suffice, or the backend does not have the op.
            BenchError: anything else went wrong.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"job": job, **parts}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise self._lost()
        reply: dict[str, Any] = json.loads(line)
        if "answer" in reply:
            found: dict[str, Any] = reply["answer"]
            return found
        if "failed" in reply:
            raise BenchError(f"{job} failed in its process:\n{reply['failed'].rstrip()}")
        if "unsupported" in reply:
            raise NotRunError(reply["unsupported"])
        raise NotRunError(f"out of memory: {reply['memory']}")

    def _lost(self) -> ConformanceError:
        code = self._process.wait()
        self._listener.join(timeout=5)
        if code == -9:
            return NotRunError("its process was killed (signal 9), most likely for want of memory")
        said = "".join(self._said).rstrip()
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return BenchError(f"a process that measures ended {how}; its last words:\n{said}")

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join(timeout=5)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            with suppress(BrokenPipeError):  # what it was to be asked next
                stream.close()


class Children:
    """One process a side, begun when it is first asked, and anew when it has died.

    Args:
        threads: of each.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._stack = ExitStack()
        self._by_side: dict[str, Child] = {}

    def of(self, side: str) -> Child:
        """The process of a side."""
        child = self._by_side.get(side)
        if child is None or not child.alive:
            child = self._stack.enter_context(Child(self._threads))
            self._by_side[side] = child
        return child

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
