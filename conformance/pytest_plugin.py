"""The options of ``pytest --pyargs glm5_hal.conformance --hal-backend NAME``.

Every pytest of an environment loads this module, so it imports nothing and does nothing until
``--hal-backend`` is given.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: "pytest.Parser") -> None:
    """Enter the options."""
    group = parser.getgroup("glm5-hal", "conformance of a GLM-5 backend")
    group.addoption(
        "--hal-backend",
        metavar="NAME[:INDEX]",
        help="backend to judge; the cases are in --pyargs glm5_hal.conformance",
    )
    group.addoption(
        "--hal-numerics",
        metavar="PROFILE",
        help="numeric profile, default GLM5_HAL_NUMERICS, else fast",
    )
    group.addoption("--hal-quick", action="store_true", help="the quick cases only")


def pytest_configure(config: "pytest.Config") -> None:
    """Start a session where a backend is named."""
    backend = config.getoption("hal_backend")
    if backend is not None:
        from glm5_hal.conformance.pytest_session import start

        numerics = config.getoption("hal_numerics")
        start(config, backend, numerics, quick=config.getoption("hal_quick"))
