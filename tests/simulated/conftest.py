"""The process that has the simulated device; built once, started once per worker of pytest."""

from collections.abc import Iterator

import pytest
from inside import Inside

from glm5_hal.conformance.simulated import build


@pytest.fixture(scope="session")
def built() -> None:
    """The extension is there."""
    reason = build.missing_compiler()
    if reason is not None:
        pytest.skip(reason)
    build.extension()


@pytest.fixture(scope="session")
def device_process(built: None) -> Iterator[Inside]:
    """A process with two well-behaved devices."""
    process = Inside()
    yield process
    process.close()
