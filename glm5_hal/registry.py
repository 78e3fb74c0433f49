"""Finding backends: entry points, loaded by name, one at a time.

A package registers a backend with::

    [project.entry-points."glm5_hal.backends"]
    mychip = "my_package.backend:MyBackend"

and further names for it in the group ``glm5_hal.backend_aliases`` (``alias = "mychip"``). Nothing
is imported until a backend is chosen or asked about.
"""

import logging
import re
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from glm5_hal.backend import Backend
from glm5_hal.env import Variable
from glm5_hal.errors import BackendUnavailable, SelectionError, UnknownBackend

GROUP = "glm5_hal.backends"
ALIAS_GROUP = "glm5_hal.backend_aliases"
SIMULATOR_GROUP = "glm5_hal.simulators"
"""Functions from a backend's class that put a simulated device under it."""

log = logging.getLogger("glm5_hal")
_CHOICE = re.compile(r"(?P<name>[A-Za-z][\w-]*)(?::(?P<index>[0-9]+))?")


@dataclass(frozen=True)
class Choice:
    """A parsed ``name[:index]``."""

    name: str
    index: int

    @classmethod
    def parse(cls, text: str) -> "Choice":
        """Parse the value of GLM5_HAL_BACKEND.

        Raises:
            SelectionError: not of the form name[:index].
        """
        match = _CHOICE.fullmatch(text)
        if match is None:
            raise SelectionError(
                f"backend {text!r} is not of the form name[:index], for example 'cpu' or 'cuda:1'"
            )
        return cls(match["name"].lower(), int(match["index"] or 0))


def registered() -> dict[str, EntryPoint]:
    """Entry point of every registered backend by name, sorted.

    Raises:
        SelectionError: two packages register the same name.
    """
    return _by_name(GROUP)


def aliases() -> dict[str, str]:
    """Accepted further names: alias to backend name. A backend's own name goes before any alias.

    Raises:
        SelectionError: two packages register the same alias for different backends.
    """
    return {name: point.value for name, point in _by_name(ALIAS_GROUP).items()}


def variables() -> dict[str, tuple[Variable, ...]]:
    """Environment variables that backends declare, by the backend's name.

    Imports every backend. One that cannot be imported declares none: `load` says why.
    """
    found = {}
    for name in registered():
        try:
            found[name] = load(name).variables
        except Exception as error:  # whatever a third party's package does when it is imported
            log.debug("variables of backend %s are not known: %s", name, error)
    return found


def simulate(backend: type[Backend]) -> None:
    """Put a simulated device under a backend, before anything of it is asked.

    Raises:
        SelectionError: no simulator is installed, or it has no device for this backend.
    """
    points = _by_name(SIMULATOR_GROUP)
    if not points:
        raise SelectionError(f"no simulator is registered (entry-point group {SIMULATOR_GROUP!r})")
    enter = next(iter(points.values())).load()
    enter(backend)


def _by_name(group: str) -> dict[str, EntryPoint]:
    points = sorted(set(entry_points(group=group)), key=lambda point: (point.name, point.value))
    double = [name for name, count in Counter(p.name for p in points).items() if count > 1]
    if double:
        sources = "; ".join(f"{p.name} = {p.value}" for p in points if p.name in double)
        raise SelectionError(f"backend names registered twice: {sources}. Uninstall one of them.")
    return {point.name: point for point in points}


def load(name: str) -> type[Backend]:
    """Import and return the backend class registered as `name` (or an alias).

    Raises:
        UnknownBackend: nothing is registered under the name.
        BackendUnavailable: its module cannot be imported.
        SelectionError: the entry point does not name a backend of that name.
    """
    points = registered()
    point = points.get(name) or points.get(aliases().get(name, name))
    if point is None:
        raise UnknownBackend(name, points)
    try:
        found = point.load()
    except (ImportError, OSError) as error:  # OSError: a shared library that does not load
        raise BackendUnavailable(point.name, f"importing {point.value} failed: {error}") from error
    except AttributeError as error:
        raise SelectionError(
            f"entry point {point.name} = {point.value} does not load: {error}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Backend)):
        raise SelectionError(f"entry point {point.name} = {point.value} is no Backend class")
    if found.name != point.name:
        raise SelectionError(
            f"entry point {point.name} = {point.value} names itself {found.name!r}; "
            "the two must agree"
        )
    return found
