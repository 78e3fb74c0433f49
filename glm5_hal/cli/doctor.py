"""`glm5-hal doctor`: everything about this machine that decides whether, and how, a run goes."""

import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import typer

from glm5_hal.cli import console, options
from glm5_hal.cli.backends import BackendReport, failure, print_reports, survey
from glm5_hal.cli.failures import ExitCode

PACKAGES = ("torch", "numpy", "safetensors", "pyyaml", "typer", "rich", "tokenizers")


@dataclass(frozen=True)
class Setting:
    """One environment variable of this project.

    Attributes:
        name: full name.
        value: what it is set to, None when it is unset.
        meaning: what it does; for an unknown variable, that nothing reads it.
        default: what holds when it is unset.
        known: whether anything reads it.
    """

    name: str
    value: str | None
    meaning: str
    default: str
    known: bool


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
    """Show whether the selected backend can run, and on what."""
    reports, settings, selection = survey(), _settings(), _selection()
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
            _print_needs(report)
        typer.echo()
        _print_settings(settings)
        typer.echo()
        typer.echo(f"selected: {selection.reason}")
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


def _print_needs(report: BackendReport) -> None:
    """What determinism needs on this machine, and the line that sets what is not right."""
    if not report.available and not any(setting.blocks for setting in report.settings):
        return
    for setting in report.settings:
        line = f"{report.name}: {setting.name}={setting.found or setting.wanted}"
        typer.echo(f"{line}: {setting.state.value} ({setting.why})")
        if setting.blocks:
            typer.echo(f"  fix: {setting.fix}")


def _system() -> dict[str, str]:
    import torch

    return {
        "glm5-hal": _version("glm5-hal"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{package: _version(package) for package in PACKAGES},
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} processors",
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _settings() -> list[Setting]:
    from glm5_hal import env

    known = {variable.name: variable for variable in env.VARIABLES}
    others = sorted(name for name in os.environ if name.startswith(env.PREFIX))
    return [
        *(
            Setting(variable.name, env.read(variable), variable.meaning, variable.default, True)
            for variable in env.VARIABLES
        ),
        *(
            Setting(name, os.environ[name], "UNKNOWN: nothing reads it", "-", False)
            for name in others
            if name not in known
        ),
    ]


def _print_settings(settings: list[Setting]) -> None:
    console.print_table(
        ("variable", "value", "default", "meaning"),
        [(s.name, s.value or "not set", s.default, s.meaning) for s in settings],
    )


def _selection() -> Selection:
    from glm5_hal.plan import resolve

    try:
        plan, _ = resolve()
    except Exception as error:  # whatever a third party's package does when it is imported
        return Selection(False, f"cannot run: {failure(error)}")
    numerics = plan.numerics.value
    reason = f"{plan.backend}:{plan.index}, {numerics}, can run"
    return Selection(True, reason, plan.backend, plan.index, numerics, plan.hash)
