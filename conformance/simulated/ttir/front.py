"""From a kernel in Triton's language to TTIR, without a device, and to a tree."""

import functools
import hashlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from glm5_hal.conformance.audit.targets import targets
from glm5_hal.conformance.simulated.build import cache_folder
from glm5_hal.conformance.simulated.habits import TritonHabits
from glm5_hal.conformance.simulated.ttir.errors import TtirError

_FLOAT_DOT = re.compile(r"tt\.dot .*: tensor<\d+x\d+x(?!i\d)")
"""Products of floats: where there are none, no chip's precisions make a difference."""

TARGET = "sm_80"
"""A target that the compiler has: TTIR is made before anything depends on it."""


@dataclass(frozen=True)
class Bound:
    """A kernel with the types of a launch's arguments; made once for all launches like it.

    Attributes:
        kernel: what `triton.jit` made.
        signature: argument name to Triton's type; ``constexpr`` for compile-time values.
        constants: name to value of those.
    """

    kernel: Any
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self.kernel, self.signature, self.constants))

    def __hash__(self) -> int:
        return self._hash


_MISSING = object()
_bound: dict[tuple[object, ...], Bound] = {}
"""Of kernels and kinds of arguments that were launched before."""


def bind(
    kernel: Any, arguments: Sequence[Any], constants: Mapping[str, Any]
) -> tuple[Bound, list[Any]]:
    """The types of a launch, and the arguments of the compiled kernel.

    No value is specialised: an integer 1 stays an argument, and nothing is known of divisibility.

    Raises:
        TtirError: an argument is missing, or of no type that Triton has.
    """
    given = dict(zip(kernel.arg_names, arguments, strict=False))
    given.update(constants)
    kinds: list[object] = [kernel]
    passed = []
    for name, constexpr, default in _parameters(kernel):
        value = given.get(name, default)
        if constexpr or value is None:
            kinds += (type(value), value)
        else:
            kinds.append(_kind(value))
            passed.append(value)
    key = tuple(kinds)
    found = _bound.get(key)
    if found is None:
        found = _bound[key] = _bind(kernel, given)
    return found, passed


@functools.cache
def _parameters(kernel: Any) -> tuple[tuple[str, bool, Any], ...]:
    """Name, whether it is a compile-time value, and default of each."""
    return tuple(
        (one.name, bool(one.is_constexpr), one.default if one.has_default else _MISSING)
        for one in kernel.params
    )


def _kind(value: Any) -> object:
    """The same for values of the same type in Triton."""
    if isinstance(value, Tensor):
        return value.dtype
    if type(value) is int:
        return -(1 << 31) <= value < 1 << 31, value < 1 << 63
    return type(value)


def _bind(kernel: Any, given: Mapping[str, Any]) -> Bound:
    from triton.runtime.jit import mangle_type

    signature, fixed = [], []
    for name, constexpr, default in _parameters(kernel):
        value = given.get(name, default)
        if value is _MISSING:
            raise TtirError(f"{kernel.__name__}: its argument {name!r} is missing")
        if constexpr or value is None:
            signature.append((name, "constexpr"))
            fixed.append((name, getattr(value, "value", value)))
        else:
            signature.append((name, mangle_type(value)))
    return Bound(kernel, tuple(signature), tuple(fixed))


@functools.lru_cache(maxsize=4096)
def ttir(bound: Bound, habits: TritonHabits) -> str:
    """TTIR of a kernel, without locations; kept on disk, for the compiler is slow.

    Raises:
        TtirError: the compiler refuses the kernel; says why.
    """
    import triton

    told = triton.__version__, bound.kernel.cache_key, bound.signature, bound.constants
    shared, own = _kept(told), _kept((*told, habits.default_precision, habits.precisions))
    for kept in (shared, own):
        if kept.is_file():
            return kept.read_text("utf-8")
    made = _compiled(bound, habits)
    kept = own if _FLOAT_DOT.search(made) else shared
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=kept.parent, delete=False, encoding="utf-8") as file:
        file.write(made)
    Path(file.name).replace(kept)
    return made


def _kept(told: tuple[object, ...]) -> Path:
    """Where the TTIR of what is told is kept."""
    return cache_folder() / "ttir" / f"{hashlib.sha256(repr(told).encode()).hexdigest()}.ttir"


def _compiled(bound: Bound, habits: TritonHabits) -> str:
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, CompilationError, make_backend

    source = ASTSource(bound.kernel, dict(bound.signature), dict(bound.constants), {})
    chip = targets()[TARGET]
    target = GPUTarget(chip.backend, chip.arch, chip.warp_size)
    backend = make_backend(target)
    options = backend.parse_options(
        {
            **source.parse_options(),
            "default_dot_input_precision": habits.default_precision,
            "allowed_dot_input_precisions": habits.precisions,
        }
    )
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    generators = backend.get_codegen_implementation(options)
    try:
        module = source.make_ir(target, options, generators, backend.get_module_map(), context)
    except CompilationError as error:
        raise TtirError(f"{bound.kernel.__name__} does not compile: {error}") from error
    made = backend.make_ttir(module, {}, options, chip.arch)
    return str(made.str_nodebug())
