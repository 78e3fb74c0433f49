"""When a habit shows: always, never, or depending on a setting of the user's."""

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from glm5_hal.conformance.errors import AskedError

_seen: Mapping[str, str] | None = None


def see_environment() -> None:
    """Read the variables, as a device's libraries do when they start: what comes later is late."""
    global _seen
    _seen = dict(os.environ)


def variable(name: str) -> str | None:
    """A variable as the device has seen it; as it is now, where no device has started."""
    return (os.environ if _seen is None else _seen).get(name)


@dataclass(frozen=True)
class Setting:
    """Something a user can set: a flag of torch or of the vendor's module, or a variable.

    Attributes:
        text: a dotted path below torch, whose value or answer counts; or ``$NAME`` or
            ``$NAME=value``, a variable of the environment when the device was first used.
    """

    text: str

    def __post_init__(self) -> None:
        if not self.text.startswith(("$", "torch.")):
            raise AskedError(f"{self.text!r} is no setting: write torch.a.b, $NAME or $NAME=value")

    def on(self) -> bool:
        """Whether it is set."""
        if self.text.startswith("$"):
            name, sign, value = self.text[1:].partition("=")
            found = variable(name)
            return found == value if sign else bool(found)
        flag: Any = functools.reduce(getattr, self.text.split(".")[1:], torch)
        return bool(flag() if callable(flag) else flag)


@dataclass(frozen=True)
class Switch:
    """Whether a habit shows.

    Attributes:
        settings: on which it depends; none means always.
        expected: whether it shows while all of them are set, or while not all are.
    """

    settings: tuple[Setting, ...] = ()
    expected: bool = True

    @classmethod
    def of(cls, value: object) -> "Switch":
        """From YAML: true, false, ``while A and B``, ``unless A and B``."""
        if isinstance(value, bool):
            return cls(expected=value)
        if isinstance(value, str):
            word, _, rest = value.partition(" ")
            if word in ("while", "unless") and rest:
                settings = tuple(Setting(text.strip()) for text in rest.split(" and "))
                return cls(settings, word == "while")
        raise AskedError(f"{value!r} is no switch: write true, false, 'while ...' or 'unless ...'")

    def on(self) -> bool:
        """Whether the habit shows now."""
        return all(setting.on() for setting in self.settings) == self.expected


NEVER = Switch(expected=False)
ALWAYS = Switch()
