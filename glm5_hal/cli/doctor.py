"""`glm5-hal doctor`: everything about this machine that decides whether, and how, a run goes."""

import os
import platform
import re
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, requires, version

import typer

from glm5_hal.cli import console, options
from glm5_hal.cli.backends import BackendReport, chosen, failure, print_reports, survey
from glm5_hal.cli.failures import ExitCode
from glm5_hal.settings import Setting as Need
from glm5_hal.settings import State


@dataclass(frozen=True)
class Setting:
    """One environment variable of this project.

    Attributes:
        name: full name.
        value: what it is set to, None when it is unset.
        meaning: what it does; for an unknown variable, that nothing reads it.
        default: what holds when it is unset.
        known: whether anything reads it.
        backends: that read it; empty where all do, or none.
    """

    name: str
    value: str | None
    meaning: str
    default: str
    known: bool
    backends: tuple[str, ...] = ()


@dataclass(frozen=True)
class Selection:
    """What the environment selects: whether it can run, why not, and its plan."""

    can_run: bool
    reason: str
    backend: str | None = None
    index: int | None = None
    numerics: str | None = None
    hash: str | None = None


def doctor(json: options.Json = False) -> None:
    """Show whether the selected backend can run, and on what; exit 3 if it cannot."""
    simulated = _simulate()
    reports = [
        replace(r, reason=f"simulated: {r.reason}") if r.name == simulated else r for r in survey()
    ]
    settings, selection = _settings(), _selection()
    if json:
        console.print_json(
            {
                "selected": asdict(selection),
                "backends": [asdict(report) for report in reports],
                "environment": [asdict(setting) for setting in settings],
                "system": _system(),
            }
        )
    else:
        console.print_facts(_system())
        typer.echo()
        print_reports(reports)
        for report in reports:
            _print_profiles(report)
        for report in reports:
            _print_needs(report)
        typer.echo()
        _print_settings(settings)
        typer.echo(f"\nselected: {selection.reason}")
        if selection.hash is not None:
            typer.echo(f"plan: {selection.hash}")
    if not selection.can_run:
        raise typer.Exit(ExitCode.UNUSABLE)


def _print_profiles(report: BackendReport) -> None:
    for profile in report.details:
        listed = [f"{name} {number}" for name, number in profile.versions.items()]
        if profile.modes:
            listed.append(f"modes {', '.join(profile.modes)}")
        typer.echo(f"{report.name}, {profile.name}: {'; '.join(listed)}")
        for text in profile.advice:
            typer.echo(f"  advice: {text}")


def _simulate() -> str:
    """Lay the selected backend on its simulated device, before anything of it is asked.

    Returns:
        Its name; empty where none is simulated, or cannot be: why not, the selection says.
    """
    from glm5_hal import env
    from glm5_hal.errors import HalError
    from glm5_hal.registry import load, simulate

    if env.read(env.SIMULATED) != "1" or not chosen():
        return ""
    try:
        simulate(load(chosen()))
    except HalError:
        return ""
    return chosen()


def _print_needs(report: BackendReport) -> None:
    """What determinism needs on this machine, and the line that sets what is not right.

    Of a backend that cannot run, only if it was chosen or if a setting is the reason.
    """
    asked = report.available or report.name == chosen()
    if not report.settings or not (asked or any(s.blocks for s in report.settings)):
        return
    typer.echo(f"\n{report.name} needs:")
    console.print_table(
        ("setting", "state", "why"),
        [(f"{s.name}: {s.wanted}", _state(s), s.why) for s in report.settings],
    )
    for setting in report.settings:
        if setting.blocks:
            late = ", before python starts" if setting.state is State.LATE else ""
            typer.echo(f"fix: {setting.fix}{late}")


def _state(setting: Need) -> str:
    state = setting.state
    return f"{state.value}: {setting.found}" if state is State.WRONG else state.value


def _system() -> dict[str, str]:
    import torch

    return {
        "glm5-hal": _version("glm5-hal"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{package: _version(package) for package in _packages()},
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} processors",
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
    }


def _packages() -> list[str]:
    """Everything that the package needs, extras included."""
    try:
        needed = requires("glm5-hal") or []
    except PackageNotFoundError:  # not installed: nothing says what belongs to it
        needed = ["torch"]
    return list(dict.fromkeys(re.split(r"[^\w.-]", line)[0] for line in needed))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _settings() -> list[Setting]:
    from glm5_hal import env
    from glm5_hal.registry import variables

    readers: dict[str, tuple[str, ...]] = {}
    known = {variable.name: variable for variable in env.VARIABLES}
    for backend, declared in variables().items():
        for variable in declared:
            known[variable.name] = variable
            readers[variable.name] = (*readers.get(variable.name, ()), backend)
    others = sorted(name for name in os.environ if name.startswith(env.PREFIX))
    return [
        *(
            Setting(v.name, env.read(v), v.meaning, v.default, True, readers.get(v.name, ()))
            for v in known.values()
        ),
        *(
            Setting(name, os.environ[name], "UNKNOWN: nothing reads it", "-", False)
            for name in others
            if name not in known
        ),
    ]


def _print_settings(settings: list[Setting]) -> None:
    """Of the variables of a single backend those that are set, and those of the selected one."""
    shown = [s for s in settings if s.value or not s.backends or chosen() in s.backends]
    console.print_table(
        ("variable", "value", "default", "meaning"),
        [(s.name, s.value or "not set", s.default, s.meaning) for s in shown],
    )
    if left := len(settings) - len(shown):
        typer.echo(f"{left} more are read by backends that are not selected: docs/environment.md")


def _selection() -> Selection:
    from glm5_hal import env
    from glm5_hal.plan import resolve

    try:
        plan, _ = resolve()
    except Exception as error:  # whatever a third party's package does when it is imported
        asked = env.read(env.BACKEND) or env.BACKEND.default
        return Selection(False, f"{asked}, cannot run: {failure(error)}")
    numerics = plan.numerics.value
    simulated = ", on a simulated device" if plan.simulated else ""
    reason = f"{plan.backend}:{plan.index}, {numerics}, can run{simulated}"
    return Selection(True, reason, plan.backend, plan.index, numerics, plan.hash)
