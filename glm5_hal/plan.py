"""The plan: one decision, taken once, which implementation answers each op."""

import dataclasses
import hashlib
import itertools
import json
import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType

from glm5_hal import env
from glm5_hal.backend import Backend
from glm5_hal.contract import CONTRACT_VERSION, OPS, Kind
from glm5_hal.errors import BackendUnavailable, SelectionError
from glm5_hal.levels import Numerics
from glm5_hal.registry import Choice, load, simulate, variables

log = logging.getLogger("glm5_hal")

CACHE_READERS = (
    "cache_read",
    "dsa_select",
    "index_scores",
    "latent_attention",
    "mla",
    "mla_expanded",
)


@dataclass(frozen=True)
class Implementation:
    """What answers one op.

    Attributes:
        source: ``native``, ``default`` (composition of other ops), ``substitute`` (the CPU, on
            request) or ``unsupported``.
        where: the function, or the reason why there is none.
    """

    source: str
    where: str


@dataclass(frozen=True)
class Plan:
    """Immutable result of selection; its hash goes into every result.

    Attributes:
        backend: name of the backend.
        index: device index.
        numerics: numeric profile.
        contract_version: version of the op contract.
        ops: op name to implementation.
        versions: software whose version can change a bit.
        mode: one of the backend's modes; empty where it has none.
        simulated: whether the device is a simulated one.
    """

    backend: str
    index: int
    numerics: Numerics
    contract_version: int
    ops: Mapping[str, Implementation]
    versions: Mapping[str, str]
    mode: str = ""
    simulated: bool = False

    @property
    def substituted(self) -> tuple[str, ...]:
        """Ops that run on the CPU instead of the backend; any voids a claim."""
        return tuple(name for name, impl in self.ops.items() if impl.source == "substitute")

    def to_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        return {
            "backend": self.backend,
            "index": self.index,
            "numerics": self.numerics.value,
            "mode": self.mode,
            "simulated": self.simulated,
            "contract_version": self.contract_version,
            "ops": {name: dataclasses.asdict(impl) for name, impl in self.ops.items()},
            "versions": dict(self.versions),
        }

    @property
    def hash(self) -> str:
        """SHA-256 of the plan without the device index: equal plans may be compared."""
        return hash_of(self.to_dict())


def hash_of(plan: Mapping[str, object]) -> str:
    """The hash of a plan as plain data, so that a stored one can be checked."""
    content = {key: value for key, value in plan.items() if key != "index"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def make_plan(
    backend: type[Backend],
    index: int,
    numerics: Numerics,
    *,
    substitute: bool = False,
    mode: str | None = None,
    simulated: bool = False,
) -> Plan:
    """Decide which implementation answers each op of `backend`, the class for the profile."""
    chosen = {}
    for name, op in OPS.items():
        method = getattr(backend, name)
        if op.profile not in (None, numerics):
            reason = f"not part of the {numerics.value} profile"
            chosen[name] = Implementation("unsupported", reason)
        elif backend.overrides(name):
            chosen[name] = Implementation("native", f"{method.__module__}.{method.__qualname__}")
        elif op.kind is Kind.COMPOSITE:
            chosen[name] = Implementation(
                "default", f"{op.default.__module__}.{op.default.__name__}"
            )
        elif op.kind is Kind.PRIMITIVE and substitute:
            chosen[name] = Implementation("substitute", "cpu")
        else:
            reason = backend.capabilities.unsupported.get(name, "not implemented")
            chosen[name] = Implementation("unsupported", reason)
    _check_cache_ops(chosen)
    return Plan(
        backend=backend.name,
        index=index,
        numerics=numerics,
        contract_version=CONTRACT_VERSION,
        ops=MappingProxyType(chosen),
        versions=MappingProxyType(
            {
                "glm5-hal": package_version(),
                "python": platform.python_version(),
                "machine": platform.machine(),
                **backend.versions(),
            }
        ),
        mode=mode or next(iter(backend.modes()), ""),
        simulated=simulated,
    )


def _check_cache_ops(chosen: Mapping[str, Implementation]) -> None:
    """A native reader of a cache needs a native writer: the CPU cannot fill a device's pages."""
    native = [name for name in CACHE_READERS if chosen[name].source == "native"]
    if chosen["cache_write"].source == "substitute" and native:
        raise SelectionError(
            f"cache_write cannot be substituted while {', '.join(native)} run on the backend; "
            "implement cache_write first"
        )


def package_version() -> str:
    """Version of this package, ``unknown`` when it runs without having been installed."""
    try:
        return version("glm5-hal")
    except PackageNotFoundError:
        return "unknown"


def resolve(
    backend: str | None = None,
    numerics: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> tuple[Plan, type[Backend]]:
    """Choose by argument or environment; nothing falls back to anything else.

    Args:
        backend: ``name[:index]``; default: GLM5_HAL_BACKEND, else the CPU.
        numerics: profile; default: GLM5_HAL_NUMERICS, else ``fast``.
        environ: where the variables are read.

    Raises:
        SelectionError: a value that does not exist (`UnknownBackend` for a backend's name).
        BackendUnavailable: the backend exists and cannot run here.
    """
    env.warn_unknown(environ, lambda: itertools.chain.from_iterable(variables().values()))
    asked = backend or env.read(env.BACKEND, environ)
    if asked is None:
        log.info("%s is not set: using the CPU backend", env.BACKEND.name)
    choice = Choice.parse(asked or env.BACKEND.default)
    cls = load(choice.name)
    simulated = _simulated(environ)
    if simulated:
        simulate(cls)
    available, reason = cls.is_available()
    if not available:
        raise BackendUnavailable(cls.name, reason)
    count = cls.device_count()
    if choice.index >= count:
        raise SelectionError(
            f"{env.BACKEND.name}={asked}: backend {cls.name!r} has {count} device(s), "
            f"so the index is 0 to {count - 1}"
        )
    profile = _profile(numerics or env.read(env.NUMERICS, environ), cls)
    cls = cls.in_profile(profile)
    substitute, mode = _substitute(environ), _mode(environ, cls)
    options = {"substitute": substitute, "simulated": simulated}
    return make_plan(cls, choice.index, profile, mode=mode, **options), cls


def _profile(text: str | None, cls: type[Backend]) -> Numerics:
    offered = sorted(profile.value for profile in cls.capabilities.profiles)
    text = text or env.NUMERICS.default
    if text not in offered:
        raise SelectionError(
            f"{env.NUMERICS.name}={text}: backend {cls.name!r} offers {', '.join(offered)}"
        )
    return Numerics(text)


def _mode(environ: Mapping[str, str], cls: type[Backend]) -> str | None:
    mode = env.read(env.MODE, environ)
    if mode is not None and mode not in cls.modes():
        known = f"its modes are {', '.join(cls.modes())}" if cls.modes() else "it has no modes"
        raise SelectionError(f"{env.MODE.name}={mode}: backend {cls.name!r}: {known}")
    return mode


def _simulated(environ: Mapping[str, str]) -> bool:
    value = env.read(env.SIMULATED, environ)
    if value not in (None, "1"):
        raise SelectionError(f"{env.SIMULATED.name}={value}: the only value is 1")
    return value == "1"


def _substitute(environ: Mapping[str, str]) -> bool:
    value = env.read(env.SUBSTITUTE, environ)
    if value not in (None, "cpu"):
        raise SelectionError(f"{env.SUBSTITUTE.name}={value}: the only substitute is 'cpu'")
    return value == "cpu"
