"""`backends`, `doctor`, `plan`: what this machine has, and what the environment selects."""

import json
import re
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest
from cli_names import Call, Ids

from glm5_hal import env, open_runtime, registry

BROKEN = {
    "absent": "broken_backends:Absent",
    "rude": "broken_backends:Rude",
    "gone": "no_such_package.backend:Gone",
    "misnamed": "broken_backends:Absent",
}


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some packages are installed whose backends cannot run."""

    def found(group: str) -> list[EntryPoint]:
        if group == registry.ALIAS_GROUP:
            return [EntryPoint("away", "absent", group), EntryPoint("lost", "nothing", group)]
        return [
            *entry_points(group=group),
            *(EntryPoint(*point, group) for point in BROKEN.items()),
        ]

    monkeypatch.setattr(registry, "entry_points", found)


def test_backends_lists_what_is_registered(call: Call) -> None:
    result = call("backends")
    assert result.exit_code == 0
    heading, *rows = result.stdout.splitlines()
    assert heading.split() == ["backend", "profiles", "devices", "available", "why"]
    assert any(row.startswith("cpu ") and " yes " in row for row in rows)


@pytest.mark.usefixtures("broken")
def test_a_broken_backend_is_shown_with_its_error(call: Call) -> None:
    result = call("backends", "--json")
    assert result.exit_code == 0
    reports = {report["name"]: report for report in json.loads(result.stdout)}
    assert reports["cpu"]["available"]
    assert reports["cpu"]["devices"] == 1
    details = {profile["name"]: profile for profile in reports["cpu"]["details"]}
    assert set(details) == {"exact", "fast"}
    assert all("torch" in profile["versions"] for profile in details.values())
    assert reports["absent"]["reason"] == "no device file"
    assert reports["absent"]["aliases"] == ["away"]
    assert reports["absent"]["profiles"] == ["fast"]
    assert reports["rude"]["reason"] == "RuntimeError: driver says no"
    assert "no_such_package" in reports["gone"]["reason"]
    assert "'absent'" in reports["misnamed"]["reason"]
    assert not any(reports[name]["available"] for name in BROKEN)
    assert call("backends").exit_code == 0


def test_doctor_says_what_runs(call: Call) -> None:
    result = call("doctor")
    assert result.exit_code == 0
    assert "selected: cpu:0, fast, can run" in result.stdout
    assert open_runtime().plan.hash in result.stdout
    document = json.loads(call("doctor", "--json").stdout)
    assert document["selected"]["can_run"]
    assert document["selected"]["hash"] == open_runtime().plan.hash
    assert {"python", "torch", "tokenizers", "threads"} <= document["system"].keys()
    assert [setting["name"] for setting in document["environment"]] == [
        "GLM5_HAL_BACKEND",
        *(variable.name for variable in env.VARIABLES[1:]),
        *(variable.name for each in registry.variables().values() for variable in each),
    ]
    assert "cpu, exact: torch" in result.stdout


def test_doctor_says_what_a_missing_compiler_costs(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glm5_hal.backends.cpu import backend
    from glm5_hal.backends.cpu.portable import CpuPortable

    monkeypatch.setattr(backend, "exact_backend", lambda: CpuPortable)
    advice = "advice: the exact profile runs in plain torch, slowly"
    assert advice in call("doctor").stdout


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("name", ["nothing", "cpu:3", *BROKEN])
def test_doctor_fails_where_the_selected_backend_cannot_run(
    call: Call, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("GLM5_HAL_BACKEND", name)
    result = call("doctor")
    assert result.exit_code == 3
    assert f"selected: {name}, cannot run: " in result.stdout
    document = json.loads(call("doctor", "--json").stdout)
    assert document["selected"]["hash"] is None


def test_doctor_flags_unknown_variables(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM5_HAL_BAKEND", "cuda")
    result = call("doctor")
    assert result.exit_code == 0
    assert "UNKNOWN" in next(
        line for line in result.stdout.splitlines() if line.startswith("GLM5_HAL_BAKEND")
    )
    environment = json.loads(call("doctor", "--json").stdout)["environment"]
    assert [setting["name"] for setting in environment if not setting["known"]] == [
        "GLM5_HAL_BAKEND"
    ]


def test_plan_names_every_implementation(call: Call) -> None:
    plan = open_runtime("cpu").plan
    result = call("plan", "--backend", "cpu:0", "--numerics", "fast", "--json")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert json.loads(result.stdout) == {**plan.to_dict(), "hash": plan.hash}
    text = call("plan").stdout
    assert "".join(re.findall(r"^mode +(\S+)$", text, re.MULTILINE)) == plan.mode
    assert plan.hash in text
    assert all(f"{name} " in text for name in plan.ops)


def test_the_default_backend_is_said_in_one_line(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    notice = "backend: cpu (GLM5_HAL_BACKEND is not set)\n"
    assert call("plan", "--json").stderr == notice
    assert call("plan", "--backend", "cpu").stderr == ""
    monkeypatch.setenv("GLM5_HAL_BACKEND", "cpu")
    assert call("plan").stderr == ""


def test_a_misspelled_variable_warns(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM5_HAL_BAKEND", "cuda")
    result = call("plan", "--backend", "cpu", "--json")
    assert result.exit_code == 0
    json.loads(result.stdout)
    (line,) = result.stderr.splitlines()
    assert line.startswith("warning: ")
    assert "did you mean GLM5_HAL_BACKEND?" in line


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("GLM5_HAL_BACKEND", "no-such", ["unknown backend 'no-such'", "registered: ", "cpu"]),
        ("GLM5_HAL_BACKEND", "cpu:3", ["GLM5_HAL_BACKEND=cpu:3", "1 device"]),
        ("GLM5_HAL_BACKEND", "c p u", ["'c p u'", "name[:index]"]),
        ("GLM5_HAL_NUMERICS", "exakt", ["GLM5_HAL_NUMERICS=exakt", "offers ", "fast"]),
        ("GLM5_HAL_SUBSTITUTE", "yes", ["GLM5_HAL_SUBSTITUTE=yes", "'cpu'"]),
    ],
)
@pytest.mark.parametrize("command", ["plan", "run", "logits"])
def test_a_wrong_variable_is_an_error_of_usage(
    call: Call,
    ids: Ids,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    name: str,
    value: str,
    parts: list[str],
) -> None:
    more: dict[str, list[object]] = {
        "plan": [],
        "run": [tmp_path, "--input-ids", ids([1]), "--max-new-tokens", 1],
        "logits": [tmp_path, "--input-ids", ids([1]), "--out", tmp_path / "out"],
    }
    monkeypatch.setenv(name, value)
    result = call(command, *more[command])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert all(part in result.stderr for part in parts)


def test_a_backend_that_is_not_registered_lists_the_known_ones(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = EntryPoint("cpu", "glm5_hal.backends.cpu.backend:CpuBackend", registry.GROUP)
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [cpu] if group == registry.GROUP else []
    )
    monkeypatch.setenv("GLM5_HAL_BACKEND", "cuda")
    result = call("plan")
    assert result.exit_code == 2
    assert "unknown backend 'cuda'; registered: cpu." in result.stderr


def test_a_profile_that_a_backend_lacks_is_an_error_of_usage(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glm5_hal import Capabilities
    from glm5_hal.backends.cpu.backend import CpuBackend

    monkeypatch.setattr(CpuBackend, "capabilities", Capabilities())
    monkeypatch.setenv("GLM5_HAL_NUMERICS", "exact")
    result = call("plan")
    assert result.exit_code == 2
    assert "GLM5_HAL_NUMERICS=exact: backend 'cpu' offers fast" in result.stderr


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("name", ["absent", "gone"])
def test_a_backend_that_cannot_run_here_is_an_unusable_environment(call: Call, name: str) -> None:
    result = call("plan", "--backend", name)
    assert result.exit_code == 3
    assert f"backend '{name}' cannot run here" in result.stderr
    assert "glm5-hal doctor" in result.stderr
