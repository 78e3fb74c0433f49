"""What an op is: a typed signature, numbered requirements, a readable reference.

An op file decorates one function. Its annotations carry the shapes and dtypes, its body is the
reference, and calling it sends the arguments through the active runtime to the chosen backend::

    @op(Kind.PRIMITIVE, requirements={"TOPK-1": "..."})
    def topk(
        scores: Annotated[Tensor, Array("T S", F32)],
        lengths: Annotated[Tensor, Array("T", I32)],
        k: int,
    ) -> Annotated[Tensor, Array("T k", I32)]: ...

Dimensions are symbols bound at the first use in a call: every later use must agree. ``2*I`` and
``E+1`` are understood; an integer argument (``k`` above) binds its own name.
"""

import enum
import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from types import MappingProxyType
from typing import Annotated, Any, Generic, ParamSpec, Protocol, TypeVar

import torch

from glm5_hal.errors import ContractError, HalError
from glm5_hal.levels import Numerics

CONTRACT_VERSION = 1

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Kind(enum.Enum):
    """How a backend stands to an op."""

    PRIMITIVE = "primitive"
    """Every backend must give it."""
    COMPOSITE = "composite"
    """Has a default built from other ops; a backend overrides it where it has a fused kernel."""
    OPTIONAL = "optional"
    """May be declared unsupported, with a reason."""


@dataclass(frozen=True)
class DTypes:
    """A dtype constraint.

    Attributes:
        label: how an error names it.
        allowed: the dtypes that satisfy it.
        shared: all arguments of one call under this constraint have one dtype.
    """

    label: str
    allowed: frozenset[torch.dtype]
    shared: bool = False


ACT = DTypes(
    "activation dtype (bfloat16 or float32)", frozenset({torch.bfloat16, torch.float32}), True
)
FLOAT = DTypes("bfloat16 or float32", frozenset({torch.bfloat16, torch.float32}))
F32 = DTypes("float32", frozenset({torch.float32}))
I32 = DTypes("int32", frozenset({torch.int32}))

_DIM = re.compile(r"(?:(?P<factor>\d+)\*)?(?P<name>[A-Za-z_]\w*)(?:\+(?P<plus>\w+))?$")


@dataclass(frozen=True)
class Dim:
    """One dimension: ``factor * name + plus`` (``plus`` a number or another symbol)."""

    text: str
    name: str
    factor: int
    plus: str

    @classmethod
    def parse(cls, text: str) -> "Dim":
        """Parse ``T``, ``2*I``, ``E+1`` or ``C+R``."""
        match = _DIM.match(text)
        if match is None:
            raise ValueError(f"dimension {text!r} is not of the form T, 2*I, E+1 or C+R")
        return cls(text, match["name"], int(match["factor"] or 1), match["plus"] or "0")

    def bind(self, size: int, dims: dict[str, int]) -> bool:
        """Bind the symbol to `size`, or say whether `size` agrees with what is bound."""
        plus = int(self.plus) if self.plus.isdigit() else dims.get(self.plus)
        if plus is None:
            return True  # decided by a later argument
        known = dims.get(self.name)
        if known is not None:
            return size == known * self.factor + plus
        value, rest = divmod(size - plus, self.factor)
        if rest or value < 0:
            return False
        dims[self.name] = value
        return True


@dataclass(frozen=True)
class Array:
    """Shape and dtype of a tensor-like argument: ``Array("T 2*I", ACT)``.

    Anything with ``shape`` and ``dtype`` fits (tensors and weight handles).
    """

    shape: str
    dtypes: DTypes | None = None

    @functools.cached_property
    def dims(self) -> tuple[Dim, ...]:
        """The parsed dimensions."""
        return tuple(Dim.parse(text) for text in self.shape.split())


class TensorLike(Protocol):
    """What `Array` checks."""

    @property
    def shape(self) -> Iterable[int]: ...
    @property
    def dtype(self) -> torch.dtype: ...


@dataclass(frozen=True)
class _Check:
    """The checks on one argument, found once from its annotation."""

    array: Array | None = None
    optional: bool = False
    is_int: bool = False
    members: tuple[tuple[str, "_Check"], ...] = ()
    items: tuple["_Check", ...] = ()

    def signature(self, value: Any) -> Any:
        """All of `value` that the check looks at, hashable: what has passed once passes again.

        Raises:
            AttributeError, TypeError: it is nothing that could pass.
        """
        if value is None:
            return None
        if self.array is not None:
            return value.shape, value.dtype
        if self.is_int:
            return value.__class__, value  # True is not 1 here
        if self.members:
            return tuple([check.signature(getattr(value, name)) for name, check in self.members])
        if self.items:
            parts = [check.signature(part) for check, part in zip(self.items, value, strict=True)]
            return value.__class__, *parts
        return None


def _check_of(annotation: Any) -> _Check:
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        arrays = [meta for meta in annotation.__metadata__ if isinstance(meta, Array)]
        return _Check(array=arrays[0]) if arrays else _check_of(annotation.__origin__)
    args = typing.get_args(annotation)
    if type(None) in args:
        (inner,) = (arg for arg in args if arg is not type(None))
        found = _check_of(inner)
        return _Check(found.array, True, found.is_int, found.members, found.items)
    if origin is tuple:
        return _Check(items=tuple(_check_of(arg) for arg in args))
    if annotation is int:
        return _Check(is_int=True)
    if is_dataclass(annotation) and isinstance(annotation, type):
        hints = typing.get_type_hints(annotation, include_extras=True)
        members = [(f.name, _check_of(hints[f.name])) for f in fields(annotation)]
        return _Check(members=tuple((n, c) for n, c in members if c.array or c.is_int or c.members))
    return _Check()


class Dims(dict[str, int]):
    """Symbols bound so far in one call, and the shared activation dtype.

    Attributes:
        dtype: of the activations.
        passed: signatures of results that have passed with these arguments.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dtype: torch.dtype | None = None
        self.passed: set[Any] = set()

    def copy(self) -> "Dims":
        """Another one to bind further symbols in, which remembers the same results."""
        made = Dims()
        made.update(self)
        made.dtype, made.passed = self.dtype, self.passed
        return made


PASSED = 1024
"""Calls of an op whose checks are remembered, by everything that the checks look at."""


@dataclass(frozen=True)
class Requirement:
    """One numbered sentence of the specification.

    Attributes:
        id: as it stands in case ids and reports.
        text: the sentence.
        profile: the only profile in which it holds; None: in every one.
    """

    id: str
    text: str
    profile: Numerics | None = None


class Dispatcher(Protocol):
    """What answers op calls while it is active (a runtime)."""

    def call(self, op: "Op[P, R]", *args: P.args, **kwargs: P.kwargs) -> R: ...


ACTIVE: ContextVar[Dispatcher | None] = ContextVar("glm5_hal_active", default=None)


class Op(Generic[P, R]):
    """One op of the contract; calling it goes through the active runtime to the backend.

    Attributes:
        name: the name, which is also the backend's method name.
        kind: primitive, composite or optional.
        profile: the only profile that it exists in; None: every one.
        requirements: id to requirement, in order.
        signature: names, kinds and defaults of the parameters.
        reference: the body of the op file: plain torch, the definition up to rounding.
        exact_rule: the definition to the bit; None where the reference is that already (the op
            moves or orders values) and for composites, whose parts define them.
    """

    def __init__(
        self,
        kind: Kind,
        requirements: Mapping[str, str],
        reference: Callable[P, R],
        profile: Numerics | None = None,
    ) -> None:
        self.name = reference.__name__
        self.kind = kind
        self.profile = profile
        self.requirements = MappingProxyType(
            {key: Requirement(key, text, profile) for key, text in requirements.items()}
        )
        self.signature = inspect.signature(reference)
        self.reference = reference
        self.exact_rule: Callable[P, R] | None = None
        self.__doc__ = reference.__doc__
        self._default: Callable[P, R] | None = None
        hints = typing.get_type_hints(reference, include_extras=True)
        self._result = _check_of(hints.pop("return"))
        self._params = tuple((name, _check_of(hint)) for name, hint in hints.items())
        self._checks = dict(self._params)
        self._passed: dict[Any, Dims] = {}

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the op on the active runtime's backend."""
        runtime = ACTIVE.get()
        if runtime is None:
            raise HalError(
                f"{self.name}: no runtime is active. Open one (`glm5_hal.open_runtime()`) and call "
                "ops inside `with runtime:`."
            )
        return runtime.call(self, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<op {self.name}({', '.join(self.signature.parameters)})>"

    def composition(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate the default of a composite op, built from other ops."""
        if self.kind is not Kind.COMPOSITE:
            raise TypeError(f"{self.name} is {self.kind.value}: only a composite has a default")
        self._default = function
        return function

    def exact(self, requirements: Mapping[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Decorate the op's definition in the exact profile, with its requirements."""
        made = {key: Requirement(key, text, Numerics.EXACT) for key, text in requirements.items()}
        _refuse_taken(made)

        def enter(function: Callable[P, R]) -> Callable[P, R]:
            self.exact_rule = function
            self.requirements = MappingProxyType({**self.requirements, **made})
            return function

        return enter

    def definition(self, numerics: Numerics) -> Callable[P, R]:
        """What the op computes in a profile; exact for `Numerics.EXACT`."""
        if numerics is Numerics.EXACT and self.exact_rule is not None:
            return self.exact_rule
        return self.reference

    @property
    def arguments(self) -> dict[str, Array]:
        """Declared shape and dtype of each tensor-like parameter."""
        return {name: check.array for name, check in self._params if check.array is not None}

    @property
    def results(self) -> tuple[Array, ...]:
        """Declared shape and dtype of each returned tensor."""
        parts = self._result.items or (self._result,)
        return tuple(part.array for part in parts if part.array is not None)

    @property
    def default(self) -> Callable[P, R]:
        """The default of a composite op."""
        if self._default is None:
            raise TypeError(f"{self.name} has no default composition")
        return self._default

    def check_arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Dims:
        """Check shapes, dtypes and integer arguments of one call; what comes back is for reading.

        Raises:
            ContractError: naming the argument, what it is and what was expected.
        """
        signature = self._signature(args, kwargs)
        known = None if signature is None else self._passed.get(signature)
        if known is None:
            known = self._checked(args, kwargs)
            if signature is not None:
                if len(self._passed) >= PASSED:
                    self._passed.clear()
                self._passed[signature] = known
        return known

    def _signature(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the checks look at in one call; None where something is no proper argument."""
        try:
            given = [
                check.signature(value)
                for (_, check), value in zip(self._params, args, strict=False)
            ]
            for name, value in kwargs.items():
                given += (name, self._checks[name].signature(value))
            signature = tuple(given)
            hash(signature)
        except (AttributeError, KeyError, TypeError):
            return None
        return signature

    def _checked(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Dims:
        dims = Dims()
        values = dict(zip((name for name, _ in self._params), args, strict=False)) | dict(kwargs)
        # in the order of the signature, however the call is written: early arguments bind symbols
        given = [(name, check, values[name]) for name, check in self._params if name in values]
        for name, check, value in given:
            if check.is_int and isinstance(value, int):
                dims[name] = value
        for name, check, value in given:
            self._check(name, check, value, dims)
        return dims

    def check_result(self, result: Any, dims: Dims, backend: str) -> None:
        """Check what a backend returned against the contract.

        Raises:
            ContractError: naming the backend and the first part that is off.
        """
        try:
            signature = self._result.signature(result)
            if signature in dims.passed:
                return
        except (AttributeError, TypeError, ValueError):
            signature = None
        self._check_parts(result, dims.copy(), backend)
        if signature is not None:
            dims.passed.add(signature)

    def _check_parts(self, result: Any, dims: Dims, backend: str) -> None:
        if not self._result.items:
            self._check(f"result of backend {backend!r}", self._result, result, dims)
            return
        if not isinstance(result, tuple) or len(result) != len(self._result.items):
            raise ContractError(
                f"{self.name}: backend {backend!r} returned {type(result).__name__}, "
                f"expected a tuple of {len(self._result.items)}"
            )
        for index, (check, value) in enumerate(zip(self._result.items, result, strict=True)):
            self._check(f"result {index} of backend {backend!r}", check, value, dims)

    def _check(self, name: str, check: _Check, value: Any, dims: Dims) -> None:
        if value is None and check.optional:
            return
        if check.array is not None:
            self._check_array(name, check.array, value, dims)
        elif check.is_int and (not isinstance(value, int) or isinstance(value, bool)):
            raise ContractError(f"{self.name}: {name} is {value!r}, expected an int")
        else:
            for member, inner in check.members:
                part = getattr(value, member, None)
                if inner.is_int and isinstance(part, int):
                    dims[member] = part
                self._check(f"{name}.{member}", inner, part, dims)

    def _check_array(self, name: str, array: Array, value: Any, dims: Dims) -> None:
        shape = getattr(value, "shape", None)
        if shape is None:
            raise ContractError(
                f"{self.name}: {name} is {type(value).__name__}, expected a tensor "
                f"[{array.shape.replace(' ', ', ')}]"
            )
        if len(shape) != len(array.dims) or not all(
            dim.bind(size, dims) for dim, size in zip(array.dims, shape, strict=True)
        ):
            raise ContractError(
                f"{self.name}: {name} has shape {list(shape)}, expected "
                f"[{', '.join(dim.text for dim in array.dims)}]"
                + (f" with {_bound(array, dims)}" if _bound(array, dims) else "")
            )
        dtypes = array.dtypes
        if dtypes is None:
            return
        if value.dtype not in dtypes.allowed:
            raise ContractError(
                f"{self.name}: {name} is {_short(value.dtype)}, expected {dtypes.label}"
            )
        if dtypes.shared:
            if dims.dtype is None:
                dims.dtype = value.dtype
            elif value.dtype != dims.dtype:
                raise ContractError(
                    f"{self.name}: {name} is {_short(value.dtype)}, but an earlier argument is "
                    f"{_short(dims.dtype)}; all activations of a call share one dtype"
                )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _bound(array: Array, dims: Mapping[str, int]) -> str:
    symbols = [s for dim in array.dims for s in (dim.name, dim.plus) if s in dims]
    return ", ".join(f"{symbol}={dims[symbol]}" for symbol in dict.fromkeys(symbols))


OPS: dict[str, Op[Any, Any]] = {}
"""Every op of the contract by name, in the order in which the op files are imported."""


def _refuse_taken(requirements: Iterable[str]) -> None:
    taken = {key for other in OPS.values() for key in other.requirements}
    if clash := taken & set(requirements):
        raise ValueError(f"requirements already in the contract: {sorted(clash)}")


def op(
    kind: Kind, *, requirements: Mapping[str, str], profile: Numerics | None = None
) -> Callable[[Callable[P, R]], Op[P, R]]:
    """Make an op of a reference function and enter it into the contract.

    An op of one `profile` exists in no other.
    """

    def enter(reference: Callable[P, R]) -> Op[P, R]:
        made = Op(kind, requirements, reference, profile)
        if made.name in OPS:
            raise ValueError(f"{made.name} is already in the contract")
        _refuse_taken(requirements)
        OPS[made.name] = made
        return made

    return enter
