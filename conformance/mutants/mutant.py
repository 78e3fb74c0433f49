"""What a mutant is, and all of them by name."""

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from glm5_hal import Backend, Runtime
from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.backends.cpu.portable import CpuPortable
from glm5_hal.contract import OPS
from glm5_hal.levels import Numerics
from glm5_hal.plan import make_plan
from glm5_hal.requirements import op_of

B = TypeVar("B", bound=type[Backend])

if TYPE_CHECKING:
    Portable = Backend  # a class that is made is no base that a type checker knows
else:
    Portable = CpuPortable
    """The backend without a fault in the exact profile: mutants of it are made of this class."""

SOUND: Mapping[Numerics, type[Backend]] = MappingProxyType(
    {Numerics.FAST: CpuBackend, Numerics.EXACT: CpuPortable}
)
"""The backend without a fault of each profile."""

_MODULES = (
    "caching",
    "matrices",
    "rows",
    "orthogonalizing",
    "scoring",
    "selecting",
    "attending",
    "routing",
    "mixing",
    "sampling",
    "repeating",
    "guarding",
    "claiming",
    "modelling",
    "exact_sums",
    "exact_turning",
    "exact_orders",
    "exact_norming",
    "exact_gating",
    "exact_choosing",
    "exact_attending",
    "exact_orthogonalizing",
    "exact_modelling",
)
"""The modules of this package that define mutants."""


@dataclass(frozen=True)
class Mutant:
    """A backend with one fault.

    Attributes:
        name: of the mutant.
        requirement: the id that is meant to find it.
        story: where such a fault occurs.
        backend_class: the CPU backend with the fault, whose base decides on the profile.
    """

    name: str
    requirement: str
    story: str
    backend_class: type[Backend]

    @property
    def numerics(self) -> Numerics:
        """The profile that it is judged in."""
        return profile_of(self.backend_class)

    @property
    def ops(self) -> frozenset[str]:
        """Ops that answer differently; empty where the fault lies outside every op."""
        lineage = self.backend_class.__mro__
        own = lineage[: lineage.index(SOUND[self.numerics])]
        named = op_of(self.requirement)
        overridden = {op for cls in own for op in vars(cls) if op in OPS}
        return frozenset(overridden | ({named} if named else set()))


_REGISTERED: dict[str, Mutant] = {}


def mutant(name: str, requirement: str, story: str) -> Callable[[B], B]:
    """Decorate a broken backend class: enter it as a mutant, under a name of its own."""

    def enter(backend_class: B) -> B:
        if name in _REGISTERED:
            raise ValueError(f"two mutants are named {name}")
        backend_class.name = f"mutant-{name}"
        _REGISTERED[name] = Mutant(name, requirement, story, backend_class)
        return backend_class

    return enter


@functools.cache
def mutants() -> Mapping[str, Mutant]:
    """Every mutant by name, in a fixed order."""
    for module in _MODULES:
        importlib.import_module(f"glm5_hal.conformance.mutants.{module}")
    return MappingProxyType(dict(_REGISTERED))


def profile_of(backend_class: type[Backend]) -> Numerics:
    """The profile of a class made of one of `SOUND`."""
    return next(n for n, sound in SOUND.items() if issubclass(backend_class, sound))


def runtime_of(backend_class: type[Backend]) -> Runtime:
    """A runtime on a backend that is not registered."""
    return Runtime(make_plan(backend_class, 0, profile_of(backend_class)), backend_class())
