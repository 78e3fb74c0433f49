"""`glm5-hal backends`: what is registered, and what of it can run here."""

import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from glm5_hal.cli import console, options

if TYPE_CHECKING:
    from glm5_hal import Backend
    from glm5_hal.settings import Setting


@dataclass(frozen=True)
class ProfileReport:
    """A backend in one numeric profile.

    Attributes:
        name: of the profile.
        modes: ways of computing the same, the one that is used by default first.
        versions: software that can change a bit.
        advice: what would make it better here.
    """

    name: str
    modes: tuple[str, ...]
    versions: dict[str, str]
    advice: tuple[str, ...]


@dataclass(frozen=True)
class BackendReport:
    """One registered backend, as found on this machine.

    Attributes:
        name: as registered.
        aliases: further names that are accepted.
        available: whether it can run here.
        reason: why, or why not.
        devices: how many an index may name; 0 where it cannot run.
        profiles: numeric profiles it offers.
        details: each profile, where it can run.
        settings: variables and flags that it needs, as they stand.
    """

    name: str
    aliases: tuple[str, ...]
    available: bool
    reason: str
    devices: int
    profiles: tuple[str, ...]
    details: tuple[ProfileReport, ...]
    settings: tuple["Setting", ...] = ()


def backends(json: options.Json = False) -> None:
    """List every registered backend."""
    reports = survey()
    if json:
        console.print_json([asdict(report) for report in reports])
    else:
        print_reports(reports)


def survey() -> list[BackendReport]:
    """A report of every registered backend; one that is broken becomes a report, not an error."""
    from glm5_hal.registry import aliases, registered

    names: dict[str, tuple[str, ...]] = dict.fromkeys(registered(), ())
    for alias, name in sorted(aliases().items()):
        if name in names:
            names[name] += (alias,)
    return [_report(name, others) for name, others in names.items()]


def _report(name: str, aliases: tuple[str, ...]) -> BackendReport:
    from glm5_hal.registry import load

    profiles: tuple[str, ...] = ()
    try:
        cls = load(name)
        profiles = tuple(sorted(profile.value for profile in cls.capabilities.profiles))
        available, reason = _availability(cls)
        devices = cls.device_count() if available else 0
        settings = cls.settings()  # before anything is opened, which would make some of them
        details = tuple(_details(cls, name) for name in profiles) if available else ()
    except Exception as error:  # whatever a third party's package does when it is imported
        return BackendReport(name, aliases, False, failure(error), 0, profiles, ())
    return BackendReport(name, aliases, available, reason, devices, profiles, details, settings)


def _availability(cls: "type[Backend]") -> tuple[bool, str]:
    """Whether it can run; of a vendor's plug-in that nobody chose, only that it is there."""
    excluded = cls.excluded()
    if excluded is not None:
        return False, excluded
    waiting = [module for module in cls.imports() if module not in sys.modules]
    if waiting and chosen() != cls.name:
        return False, (
            f"{', '.join(waiting)} is installed and not imported, for plug-ins may exclude each "
            f"other; GLM5_HAL_BACKEND={cls.name} glm5-hal doctor tells more"
        )
    return cls.is_available()


def chosen() -> str:
    """The backend that the environment chooses, whether it exists or not; empty if none."""
    from glm5_hal import env
    from glm5_hal.registry import aliases

    asked = (env.read(env.BACKEND) or "").partition(":")[0].lower()
    return aliases().get(asked, asked)


def _details(cls: "type[Backend]", profile: str) -> ProfileReport:
    from glm5_hal import Numerics

    used = cls.in_profile(Numerics(profile))
    return ProfileReport(profile, used.modes(), used.versions(), used.advice())


def failure(error: Exception) -> str:
    """Why something cannot be used, in one line."""
    from glm5_hal.errors import BackendUnavailable, HalError

    if isinstance(error, BackendUnavailable):
        return error.reason
    text = " ".join(str(error).split())
    return text if isinstance(error, HalError) else f"{type(error).__name__}: {text}"


def print_reports(reports: list[BackendReport]) -> None:
    """The table of backends."""
    console.print_table(
        ("backend", "profiles", "devices", "available", "why"),
        [
            (
                " / ".join((report.name, *report.aliases)),
                ", ".join(report.profiles) or "-",
                str(report.devices),
                "yes" if report.available else "no",
                report.reason,
            )
            for report in reports
        ],
        right=("devices",),
    )
