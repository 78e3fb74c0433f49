"""Tests that run in a process of their own: renaming a device type cannot be undone.

`inside` marks such a test. Here it is sent by name to the process that the fixture
`device_process` holds; there it runs, with the habits of a device without any.
"""

import functools
import importlib
import inspect
import os
import pickle
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

WARNINGS = ("-W", "error", "-W", "ignore:The value of the smallest subnormal:UserWarning")
HERE = Path(__file__).parent
MARK = "_INSIDE_SIMULATED"
DEVICE = "chip"
"""torch's name of the device in these tests."""
MEMORY = 256 << 20
"""Bytes that each of them has."""


def compiling() -> dict[str, str]:
    """The environment of a process whose kernels are compiled, whatever this one does."""
    return {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}


class Inside:
    """The process, from the outside."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *WARNINGS, str(HERE / "inside.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**compiling(), MARK: "1", "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._out: Any = self._process.stdin
        self._in: Any = self._process.stdout

    def run(self, module: str, name: str, arguments: dict[str, Any]) -> None:
        """Run a test there; fails as it does."""
        pickle.dump((module, name, arguments), self._out)
        self._out.flush()
        try:
            trace, skipped = pickle.load(self._in)
        except EOFError:
            pytest.fail(f"the process with the device ended: {self._process.wait()}", pytrace=False)
        if skipped:
            pytest.skip(trace)
        if trace:
            pytest.fail(trace, pytrace=False)

    def close(self) -> None:
        self._out.close()
        self._in.close()
        assert self._process.wait(60) == 0


def inside(test: Callable[..., None]) -> Callable[..., None]:
    """A test for the process with the device."""
    if os.environ.get(MARK):
        return test

    @functools.wraps(test)
    def outside(device_process: Inside, **arguments: Any) -> None:
        device_process.run(test.__module__, test.__name__, arguments)

    own = inspect.signature(test)
    fixture = inspect.Parameter("device_process", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    every = [fixture, *own.parameters.values()]
    outside.__signature__ = own.replace(parameters=every)  # type: ignore[attr-defined]
    return outside


def run_alone(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A script in a new process, which has no device yet."""
    return subprocess.run(
        [sys.executable, *WARNINGS, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        env={**compiling(), "OMP_NUM_THREADS": "1", **environment},
        timeout=300,
    )


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    from glm5_hal.conformance.simulated import device
    from glm5_hal.conformance.simulated.habits import Habits, Profile, TritonHabits

    device.simulate(Profile(DEVICE, f"simulated {DEVICE}", memory=MEMORY))
    sys.path.insert(0, str(HERE))
    while True:
        try:
            module, name, arguments = pickle.load(requests)
        except EOFError:
            return
        trace, skipped = "", False
        try:
            getattr(importlib.import_module(module), name)(**arguments)
        except pytest.skip.Exception as reason:
            trace, skipped = str(reason), True
        except BaseException:
            trace = traceback.format_exc()
        device.set_habits(Habits(), TritonHabits())
        device.set_latency(device.LATENCY)
        pickle.dump((trace, skipped), answers)
        answers.flush()


if __name__ == "__main__":
    import faulthandler

    faulthandler.enable()
    answering = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a test prints is no answer
    with answering:
        _serve(sys.stdin.buffer, answering)
