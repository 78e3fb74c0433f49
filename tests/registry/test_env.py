"""What the environment selects, what it says, and what it warns of."""

import logging
import os
import subprocess
import sys

import pytest
from stub_backends import Install

from glm5_hal import SelectionError, open_runtime, registry
from glm5_hal.env import BACKEND, VARIABLES, Variable, read, warn_unknown
from glm5_hal.plan import resolve


def test_unset_is_the_cpu_said_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "glm5_hal"):
        assert open_runtime().plan.backend == "cpu"
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage() == "GLM5_HAL_BACKEND is not set: using the CPU backend"


def test_a_choice_is_not_announced(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO, "glm5_hal"):
        open_runtime("cpu")
        monkeypatch.setenv("GLM5_HAL_BACKEND", "cpu")
        open_runtime()
    assert not caplog.records


def test_an_empty_variable_is_an_unset_one(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in VARIABLES:
        monkeypatch.setenv(variable.name, "")
        assert read(variable) is None
    with caplog.at_level(logging.INFO, "glm5_hal"):
        assert open_runtime().plan.backend == "cpu"
    assert len(caplog.records) == 1


def test_the_variable_chooses_and_an_argument_goes_before_it(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(bare="stub_backends:Bare")
    monkeypatch.setenv("GLM5_HAL_BACKEND", "Bare:2")
    runtime = open_runtime()
    assert (runtime.plan.backend, runtime.plan.index, runtime.backend.index) == ("bare", 2, 2)
    assert open_runtime("cpu").plan.backend == "cpu"
    assert open_runtime("bare:1").plan.index == 1


def test_the_environment_is_read_when_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM5_HAL_BACKEND", "nothing")
    with pytest.raises(SelectionError, match="unknown backend 'nothing'"):
        open_runtime()
    monkeypatch.delenv("GLM5_HAL_BACKEND")
    open_runtime()


def test_a_mapping_may_stand_for_the_environment(install: Install) -> None:
    install(bare="stub_backends:Bare")
    plan, _ = resolve(environ={"GLM5_HAL_BACKEND": "bare"})
    assert plan.backend == "bare"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("GLM5_HAL_BACKENDS", "did you mean GLM5_HAL_BACKEND?"),
        ("GLM5_HAL_BACKND", "did you mean GLM5_HAL_BACKEND?"),
        ("GLM5_HAL_NUMERIC", "did you mean GLM5_HAL_NUMERICS?"),
        ("GLM5_HAL_SUBSTITUTES", "did you mean GLM5_HAL_SUBSTITUTE?"),
    ],
)
def test_a_misspelt_variable_is_warned_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    monkeypatch.setenv(name, "1")
    open_runtime("cpu")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"environment variable {name} is not read by anything; {hint}"


def test_a_variable_like_no_other_lists_all(caplog: pytest.LogCaptureFixture) -> None:
    assert warn_unknown({"GLM5_HAL_XYZ": "1", "GLM5_HAL_AAA": "1", "OTHER": "1"}) == [
        "GLM5_HAL_AAA",
        "GLM5_HAL_XYZ",
    ]
    assert len(caplog.records) == 2
    for variable in VARIABLES:
        assert variable.name in caplog.records[0].getMessage()


def test_known_variables_are_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert warn_unknown({variable.name: "x" for variable in VARIABLES}) == []
    assert not caplog.records


def test_what_a_backend_declares_is_known(
    install: Install, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tuned="stub_backends:Tuned", gone="no_such_package:Gone")
    monkeypatch.setenv("GLM5_HAL_TUNED_SPEED", "2")
    open_runtime("cpu")
    assert not caplog.records
    monkeypatch.setenv("GLM5_HAL_TUNED_SPED", "2")
    open_runtime("cpu")
    (record,) = caplog.records
    assert "did you mean GLM5_HAL_TUNED_SPEED?" in record.getMessage()


def test_no_backend_is_imported_for_variables_that_all_have() -> None:
    def asked() -> list[Variable]:
        raise AssertionError

    assert warn_unknown({"GLM5_HAL_MODE": "x", "OTHER": "1"}, asked) == []


def test_every_variable_is_described() -> None:
    declared = [variable for each in registry.variables().values() for variable in each]
    assert any(variable.name == "GLM5_HAL_ONNX_PROVIDER" for variable in declared)
    for variable in (*VARIABLES, *declared):
        assert variable.name.startswith("GLM5_HAL_")
        assert variable.meaning.endswith(".")
        assert variable.values
        assert variable.default
    assert len({variable.name for variable in VARIABLES}) == len(VARIABLES)
    assert BACKEND in VARIABLES


def test_importing_reads_and_says_nothing() -> None:
    """A wrong environment is an error when a runtime is opened, not before."""
    environ = {**os.environ, "GLM5_HAL_BACKEND": "nothing", "GLM5_HAL_XYZ": "1"}
    code = "import glm5_hal, glm5_hal.ops, sys; print('glm5_hal.backends' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("False\n", "")
