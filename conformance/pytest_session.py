"""Judging cases under pytest: each in a worker process, as the command line does it.

A crash or a hang is so the failure of one test with ``-n 0`` as well as with ``-n 2``. pytest is
imported inside functions, because the package does not depend on it.
"""

import datetime
import os
from functools import cached_property
from typing import TYPE_CHECKING

from glm5_hal import HalError
from glm5_hal.conformance import sources
from glm5_hal.conformance.case import Result, Status
from glm5_hal.conformance.errors import UnusableError
from glm5_hal.conformance.judge import not_claimed, outcome, waive
from glm5_hal.conformance.pool import Pool
from glm5_hal.conformance.runner import Job, Request, prepare
from glm5_hal.conformance.text import teach

if TYPE_CHECKING:
    import pytest

_NAME = "glm5-hal-session"


class Session:
    """One pytest process's share of a run.

    Args:
        request: what the options ask for.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._pool: Pool | None = None

    @cached_property
    def job(self) -> Job:
        """The decisions; taken when cases are collected, which xdist's controller does not do."""
        import pytest

        try:
            return prepare(self._request)
        except HalError as error:
            raise pytest.UsageError(str(error)) from error

    def judge(self, name: str) -> Result:
        """The result of a case."""
        import pytest

        job, case = self.job, self.job.cases[name]
        if reason := not_claimed(case, job.claimed, job.plan.backend):
            return outcome(case, job.plan, Status.NOT_RUN, 0.0, reason)
        if self._pool is None:
            self._pool = Pool(job.setup, job.plan, 1)
        try:
            (raw,) = self._pool.run([case])
        except UnusableError as error:
            pytest.exit(str(error), returncode=3)
        return waive(raw, job.waivers, datetime.datetime.now(datetime.UTC).date())

    def pytest_unconfigure(self) -> None:
        """End the worker."""
        if self._pool is not None:
            self._pool.close()


def start(config: "pytest.Config", backend: str, numerics: str | None, *, quick: bool) -> None:
    """Check the options, and let the tests find their session.

    Raises:
        pytest.UsageError: a backend or profile that does not exist or cannot run here.
    """
    import pytest

    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))  # they share the cores
    source = sources.SUITE
    try:
        source.resolve(backend, numerics)
    except HalError as error:
        raise pytest.UsageError(str(error)) from error
    request = Request(backend, numerics, quick=quick, workers=workers, source=source)
    config.pluginmanager.register(Session(request), _NAME)


def session_of(config: "pytest.Config") -> Session:
    """The session of a pytest process.

    Raises:
        pytest.UsageError: no backend was named.
    """
    import pytest

    session = config.pluginmanager.get_plugin(_NAME)
    if not isinstance(session, Session):
        raise pytest.UsageError("the conformance cases need --hal-backend NAME[:INDEX]")
    return session


def report(result: Result) -> None:
    """Turn a result into pytest's outcome of the running test."""
    import pytest

    message = f"{result.status.value}: {result.message}"
    match result.status:
        case Status.PASS:
            return
        case Status.EXPECTED_FAIL:
            pytest.xfail(message)
        case Status.UNSUPPORTED | Status.NOT_RUN:
            pytest.skip(message)
        case _:
            pytest.fail(teach(result), pytrace=False)
