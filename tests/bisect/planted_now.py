"""The backend called ``planted``: which fault it has is decided when it is registered."""

from importlib.metadata import EntryPoint, entry_points

import faults

from glm5_hal import Backend
from glm5_hal.backends.cpu.profiles import exact_backend
from glm5_hal.conformance.bisect.planting import plant

Planted: type[Backend] = Backend
"""Set by `choose`."""


class Unfused(exact_backend()):  # type: ignore[misc]
    """The sound backend without a kernel of its own for the selection."""

    dsa_select = Backend.dsa_select


def planted(name: str, layer: int) -> type[Backend]:
    """The sound backend with one fault in one layer."""
    known = faults.PLANTED[name]
    sound = Unfused if known.within == "dsa_select" else exact_backend()
    return plant(sound, known.op, f"layer{layer}", known.fault)


def choose(name: str, layer: int) -> None:
    """Make the fault that ``--backend planted`` has."""
    global Planted
    Planted = planted(name, layer)


def found(group: str) -> list[EntryPoint]:
    """Installed entry points, and this backend."""
    own = (
        [EntryPoint("planted", "planted_now:Planted", group)] if group.endswith("backends") else []
    )
    return [*entry_points(group=group), *own]
