"""Ops of a vendor's library in place of portable kernels: which there are, and who takes them.

Taken in the fast profile alone, and only where somebody asks for them by name, unless every
promise that the contract makes for the op is known to be kept. Nothing of a library is imported
before that. Asking for what is not there is an error; a call that a library cannot take runs the
portable kernel, and says so once.
"""

import functools
import importlib
import inspect
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any, ClassVar

import torch

from glm5_hal import Backend, Capabilities, Level, Numerics, env
from glm5_hal.backends.torch_triton.device import TorchDeviceBackend
from glm5_hal.errors import BackendUnavailable, SelectionError

log = logging.getLogger("glm5_hal")

_TORCH_OPS = "torch.ops."


class UnfitError(Exception):
    """A library's function is not there, or not the one that is known."""


@dataclass(frozen=True)
class Library:
    """A package of a vendor's that holds fused ops.

    Attributes:
        package: its name as a distribution.
        install: where it comes from.
        since: first version whose calls are known; None where only the signature tells.
        below: first version whose calls have not been read.
    """

    package: str
    install: str
    since: str | None = None
    below: str | None = None

    def misfit(self, found: str) -> str | None:
        """Why this version is not one whose calls are known."""
        if self.since is None or self.below is None:
            return None
        if _number(self.since) <= _number(found) < _number(self.below):
            return None
        return (
            f"{self.package} {found} is installed, its calls are known from {self.since} to "
            f"below {self.below}"
        )


@dataclass(frozen=True, eq=False)
class Fused:
    """One op of the contract that a library's function can compute.

    Attributes:
        op: name of the op.
        function: ``module:name``; ``module:torch.ops.x.y`` where the module registers it there.
        library: the package it is in.
        parameters: names that the function must take, as far as Python can see its signature.
        source: where the signature was read.
        established: requirement to the reason why it is kept.
        open: requirement to the reason why nobody knows, or why it is not kept.
        call: the function and the backend, then the op's arguments, to the op's result.
        obstacle: the backend and the op's arguments to the reason why the function cannot take
            them. It looks at nothing that differs from batch to batch: which kernel computes a
            row must not depend on the other rows.
        besides: other functions of the module that `call` needs.
        device: the backend's class to the reason why its device has no such function; None where
            any has.
    """

    op: str
    function: str
    library: Library
    parameters: tuple[str, ...]
    source: str
    established: Mapping[str, str]
    open: Mapping[str, str]
    call: Callable[..., Any]
    obstacle: Callable[..., str | None]
    besides: tuple[str, ...] = ()
    device: Callable[[type[TorchDeviceBackend]], str | None] | None = None

    def load(self) -> Callable[..., Any]:
        """The library's function, imported now.

        Raises:
            UnfitError: it is not there, or not the one that is known.
        """
        name, _, path = self.function.partition(":")
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            raise UnfitError(
                f"importing {name} failed ({error}): install {self.library.package}, "
                f"{self.library.install}"
            ) from error
        if misfit := self.library.misfit(self.version()):
            raise UnfitError(misfit)
        owner: Any = torch.ops if path.startswith(_TORCH_OPS) else module
        try:
            function: Callable[..., Any] = functools.reduce(
                getattr, path.removeprefix(_TORCH_OPS).split("."), owner
            )
            for other in self.besides:
                getattr(module, other)
        except AttributeError as error:
            raise UnfitError(f"{self.library.package} lacks what is called: {error}") from error
        self._check_signature(function)
        return function

    def version(self) -> str:
        """Of the package, by its metadata or else as it says itself, once it is imported."""
        try:
            return version(self.library.package)
        except PackageNotFoundError:
            root = importlib.import_module(self.function.partition(":")[0].partition(".")[0])
            return str(getattr(root, "__version__", "unknown"))

    def _check_signature(self, function: Any) -> None:
        taken = _parameters(function)
        if taken is None:
            if self.library.since is None:
                raise UnfitError(
                    f"{self.function} shows no signature, and which versions of "
                    f"{self.library.package} take {', '.join(self.parameters)} is not known"
                )
            return
        missing = [name for name in self.parameters if name not in taken]
        if missing:
            raise UnfitError(
                f"{self.function} takes ({', '.join(taken)}), without {', '.join(missing)}: "
                f"another version than the one of {self.source}"
            )


class FusedBackend(TorchDeviceBackend):
    """A chip whose vendor has a library of fused ops.

    A subclass gives `_fused`, and `variables` with the `variable` that asks for them.
    """

    name = "fused-device"
    _fused: ClassVar[tuple[Fused, ...]] = ()
    """What its vendor's libraries have, by op."""
    _taken: ClassVar[tuple[Fused, ...]] = ()
    """What this class calls."""

    def __init__(self, index: int = 0) -> None:
        super().__init__(index)
        self._told: set[tuple[str, str]] = set()

    @classmethod
    def in_profile(cls, numerics: Numerics) -> type[Backend]:
        made = super().in_profile(numerics)
        asked = cls._asked()  # a wrong value is an error in either profile
        assert issubclass(made, FusedBackend)
        if numerics is Numerics.EXACT or not asked or made._taken:
            return made
        if (made, asked) not in _MADE:
            _MADE[made, asked] = _with(made, asked)
        return _MADE[made, asked]

    @classmethod
    def _asked(cls) -> tuple[Fused, ...]:
        """The ops to take.

        Raises:
            SelectionError: the variable names something else.
        """
        by_op = {fused.op: fused for fused in cls._fused}
        text = env.read(cls.variables[0])
        if text is None:
            return tuple(fused for fused in cls._fused if not fused.open)
        if text in ("none", "all"):
            return cls._fused if text == "all" else ()
        names = [name.strip() for name in text.split(",")]
        if wrong := [name for name in names if name not in by_op]:
            raise SelectionError(
                f"{cls.variables[0].name}={text}: {wrong[0]!r} is no fused op of backend "
                f"{cls.name!r}; it has {', '.join(by_op)}; or say none or all"
            )
        return tuple(fused for op, fused in by_op.items() if op in names)

    @classmethod
    def advice(cls) -> tuple[str, ...]:
        if cls._numerics is Numerics.EXACT:
            return super().advice()
        name = cls.variables[0].name
        idle = [fused for fused in cls._fused if fused not in cls._taken]
        return super().advice() + tuple(
            f"{fused.op}: {name}={fused.op} would take {fused.function.replace(':', '.')}; not "
            f"taken unasked, because nobody has shown that it keeps {', '.join(fused.open)}"
            for fused in idle
        )

    @classmethod
    def versions(cls) -> dict[str, str]:
        found = super().versions()
        for fused in cls._taken:
            found[fused.library.package] = fused.version()
        return found

    def _tell(self, op: str, reason: str) -> None:
        if (op, reason) not in self._told:
            self._told.add((op, reason))
            log.warning("%s: %s runs the portable kernel: %s", self.name, op, reason)


def variable(backend: str) -> env.Variable:
    """The environment variable that asks for a backend's fused ops."""
    return env.Variable(
        f"{env.PREFIX}{backend.upper()}_FUSED",
        "none, all or ops by commas",
        "none",
        f"Ops of the fast profile that {backend}'s own libraries compute. Their promises are not "
        "established; the backend's README says which.",
    )


_MADE: dict[tuple[type[Backend], tuple[Fused, ...]], type[Backend]] = {}


def _with(made: type[FusedBackend], taken: tuple[Fused, ...]) -> type[Backend]:
    """The class of the fast profile that calls these, each found now.

    Raises:
        BackendUnavailable: one of them is not there.
    """
    body: dict[str, Any] = {
        "__module__": made.__module__,
        "_taken": taken,
        "capabilities": _claiming(made.capabilities, taken),
    }
    for fused in taken:
        try:
            if fused.device is not None and (reason := fused.device(made)) is not None:
                raise UnfitError(reason)
            body[fused.op] = _method(fused, getattr(made, fused.op), fused.load())
        except UnfitError as error:
            asked = f"{made.variables[0].name} asks for {fused.op}"
            raise BackendUnavailable(made.name, f"{asked}: {error}") from error
    if body.keys() & {"index_scores", "topk"} and "dsa_select" not in body:
        body["dsa_select"] = Backend.dsa_select  # composed of the two, or it would not equal them
    return type(f"{made.__name__}Fused", (made,), body)


def _claiming(stated: Capabilities, taken: tuple[Fused, ...]) -> Capabilities:
    """What can still be claimed: nothing of the fast profile that nobody has shown."""
    unknown = {requirement for fused in taken for requirement in fused.open}
    if not unknown:
        return stated
    left = frozenset() if "RUN-1" in unknown else frozenset({Level.RUN_TO_RUN})
    claims = {**stated.claims, Numerics.FAST: stated.claims[Numerics.FAST] & left}
    return replace(stated, claims=MappingProxyType(claims))


def _method(fused: Fused, portable: Any, function: Callable[..., Any]) -> Any:
    """The op's method: the library's function, or the portable kernel where it cannot."""

    @functools.wraps(portable)
    def run(self: FusedBackend, *arguments: Any, **named: Any) -> Any:
        reason = fused.obstacle(self, *arguments, **named)
        if reason is not None:
            self._tell(fused.op, reason)
            return portable(self, *arguments, **named)
        with self._namespace().device(self.index):  # on its current stream, as kernels are
            return fused.call(function, self, *arguments, **named)

    run.__module__, run.__qualname__ = fused.call.__module__, fused.call.__qualname__
    return run


def _parameters(function: Any) -> list[str] | None:
    """Names of a function's parameters; None where neither Python nor torch shows them."""
    try:
        found = inspect.signature(function).parameters
    except (TypeError, ValueError):
        found = None
    if found is not None and all(p.kind is not p.VAR_POSITIONAL for p in found.values()):
        return list(found)
    schema = getattr(getattr(function, "default", None), "_schema", None)
    return None if schema is None else [argument.name for argument in schema.arguments]


def _number(text: str) -> tuple[int, ...]:
    """The numbers of a release, without what stands behind a plus."""
    return tuple(int(digits) for digits in re.findall(r"\d+", text.partition("+")[0])[:3])
