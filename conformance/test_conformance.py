"""The catalogue as pytest tests: ``pytest --pyargs glm5_hal.conformance --hal-backend NAME``."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_generate_tests(metafunc: "pytest.Metafunc") -> None:
    """One test a case; its id is the case's."""
    from glm5_hal.conformance.pytest_session import session_of

    names = list(session_of(metafunc.config).job.cases)
    if "hal_case" in metafunc.fixturenames:
        metafunc.parametrize("hal_case", names, ids=names)


def test_case(hal_case: str, request: "pytest.FixtureRequest") -> None:
    """The backend keeps one requirement on one input."""
    from glm5_hal.conformance.pytest_session import report, session_of

    result = session_of(request.config).judge(hal_case)
    properties = [(name, getattr(result, name)) for name in ("requirement", "aspect", "relation")]
    # not by record_property, which warns under --junitxml's default family
    request.node.user_properties += [*properties, ("status", result.status.value)]
    report(result)


def test_must_pass_list(request: "pytest.FixtureRequest") -> None:
    """The cases are those of the frozen list."""
    from glm5_hal.conformance.pytest_session import session_of

    job = session_of(request.config).job
    assert job.must_pass.differences(job.cases) == []
