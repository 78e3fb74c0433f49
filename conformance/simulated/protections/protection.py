"""What a protection is, and the ways to be without one."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from glm5_hal import Backend, Numerics
from glm5_hal.backends.torch_triton.device import TorchDeviceBackend
from glm5_hal.conformance.errors import UnusableError
from glm5_hal.conformance.simulated.habits import Profile
from glm5_hal.conformance.simulated.ttir.execution import executable
from glm5_hal.conformance.simulated.ttir.front import ttir
from glm5_hal.kernels.triton.target import Target

Opener = Callable[[type[Backend]], AbstractContextManager[Backend]]
"""Opens a backend of a profile's class, in some state, for as long as the context lasts."""


@contextmanager
def as_it_is(backend: type[Backend]) -> Iterator[Backend]:
    """The backend with all its protections."""
    yield backend()


@dataclass(frozen=True)
class Protection:
    """A setting or a way of computing without which a chip's habit would show.

    Attributes:
        name: of the protection.
        against: the habit, in words.
        numerics: the profile in which its absence is judged.
        op: whose cases judge it.
        requirement: that is meant to fail without it.
        needed: whether a simulated device has the habit.
        removed: opens a backend without it.
        kept: opens the backend that `removed` is compared with.
        cases: what the ids of the cases contain; by default the quick ones judge.
    """

    name: str
    against: str
    numerics: Numerics
    op: str
    requirement: str
    needed: Callable[[Profile], bool]
    removed: Opener
    kept: Opener = as_it_is
    cases: str = ""


def with_members(**members: Any) -> Opener:
    """A backend some of whose members, such as its ops, are others."""

    @contextmanager
    def opened(backend: type[Backend]) -> Iterator[Backend]:
        yield type(f"{backend.__name__}Bare", (backend,), members)()

    return opened


def with_target(**changes: Any) -> Opener:
    """A backend that takes the chip for another one."""

    def targets(cls: type[TorchDeviceBackend]) -> dict[str, Target]:
        known = super(cls, cls)._targets()
        return {name: replace(target, **changes) for name, target in known.items()}

    return with_members(_targets=classmethod(targets))


def with_options(**changes: Any) -> Opener:
    """A backend that launches kernels with other options."""

    def launch(
        self: TorchDeviceBackend,
        kernel: Any,
        programs: int,
        arguments: tuple[Any, ...],
        constants: Mapping[str, Any],
    ) -> None:
        above: Any = super(type(self), self)
        above._launch(kernel, programs, arguments, {**constants, **changes})

    return with_members(_launch=launch)


def with_source(function: str, old: str, new: str) -> Opener:
    """A backend one of whose kernels' functions has another text.

    Args:
        function: ``module.name`` below ``glm5_hal.kernels.triton``.
        old: text that occurs in it.
        new: what stands there instead.
    """

    @contextmanager
    def opened(backend: type[Backend]) -> Iterator[Backend]:
        module, _, name = function.partition(".")
        edited = getattr(importlib.import_module(f"glm5_hal.kernels.triton.{module}"), name)
        before = edited.src
        if old not in before:
            raise UnusableError(f"{function} no longer holds {old!r}: mend its protection")
        try:
            _rewrite(edited, before.replace(old, new))
            yield backend()
        finally:
            _rewrite(edited, before)

    return opened


def _rewrite(function: Any, source: str) -> None:
    """Give a kernel's function a text; who calls it is compiled anew as well."""
    function._unsafe_update_src(source)
    executable.cache_clear()
    ttir.cache_clear()
    package = importlib.import_module("glm5_hal.kernels.triton")
    for entry in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{entry.name}")
        for value in vars(module).values():
            if hasattr(value, "_unsafe_update_src"):
                value.hash = None
