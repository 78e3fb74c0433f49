"""The process as it is: what is installed, imported and initialised, without changing any of it."""

import importlib.util
import os
import sys
from collections.abc import Mapping
from typing import Protocol

import torch


class Surroundings(Protocol):
    """What detection and settings look at."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Environment variables."""

    def installed(self, module: str) -> bool:
        """Whether a module could be imported; does not import it."""

    def imported(self, module: str) -> bool:
        """Whether a module has been imported."""

    def attribute(self, path: str) -> object:
        """Value of a path that begins with ``torch.``; None where there is none."""


class Process:
    """This process."""

    @property
    def environment(self) -> Mapping[str, str]:
        return os.environ

    def installed(self, module: str) -> bool:
        if module in sys.modules:
            return self.imported(module)
        found = importlib.util.find_spec(module)
        return found is not None and found.origin is not None  # a mere folder has no origin

    def imported(self, module: str) -> bool:
        return sys.modules.get(module) is not None  # None: its import is forbidden

    def attribute(self, path: str) -> object:
        value: object = torch
        for name in path.split(".")[1:]:
            value = getattr(value, name, None)
        return value
