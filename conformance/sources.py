"""Where a run finds cases, backends and must-pass lists, in a form that worker processes share."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from glm5_hal import Backend, Plan
from glm5_hal.conformance.case import Case
from glm5_hal.conformance.mustpass import FOLDER

Resolver = Callable[[str | None, str | None], tuple[Plan, type[Backend]]]


@dataclass(frozen=True)
class Source:
    """Names that every process resolves for itself.

    Attributes:
        catalogue: ``module:function`` that returns every case by id.
        resolver: ``module:function`` from (backend, numerics) to the plan and the backend's class.
        lists: folder of the must-pass lists.
    """

    catalogue: str = "glm5_hal.conformance.catalogue:catalogue"
    resolver: str = "glm5_hal.plan:resolve"
    lists: Path = FOLDER

    def cases(self) -> Mapping[str, Case]:
        """Every case by id, in a fixed order."""
        return cast("Callable[[], Mapping[str, Case]]", _named(self.catalogue))()

    def resolve(self, backend: str | None, numerics: str | None) -> tuple[Plan, type[Backend]]:
        """Choose a backend; raises what the resolver raises."""
        return cast(Resolver, _named(self.resolver))(backend, numerics)


SUITE = Source()
"""The suite's own cases, on registered backends."""


def _named(name: str) -> object:
    module, _, attribute = name.partition(":")
    found: object = getattr(importlib.import_module(module), attribute)
    return found
