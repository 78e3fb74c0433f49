"""What a backend needs of its surroundings to be deterministic: variables and flags, as found."""

import enum
from dataclasses import dataclass


class State(enum.StrEnum):
    """How a setting stands."""

    GOOD = "ok"
    PENDING = "set when opened"
    """Not set yet; the backend sets it before the device is used."""
    WRONG = "wrong"
    """Set to something else, on purpose or not: the backend does not overrule it."""
    LATE = "too late"
    """Not set, and what reads it has read it already."""


@dataclass(frozen=True)
class Setting:
    """One environment variable or flag.

    Attributes:
        name: of the variable, or the flag's path in Python.
        wanted: what it must be.
        found: what it is; None where it is not set.
        state: how that stands.
        why: what it does.
        fix: the line that sets it, for a shell or for Python.
    """

    name: str
    wanted: str
    found: str | None
    state: State
    why: str
    fix: str

    @property
    def blocks(self) -> bool:
        """Whether the backend cannot run before someone has changed it."""
        return self.state in (State.WRONG, State.LATE)

    def __str__(self) -> str:
        found = "is not set" if self.found is None else f"is {self.found!r}"
        late = ", and what reads it has been loaded already" if self.state is State.LATE else ""
        return f"{self.name} {found}{late}; expected {self.wanted} ({self.why}): {self.fix}"
