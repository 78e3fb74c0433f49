"""Calls that were made once, to be made again on the same tensors, without the Python around."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

LIMIT = 16 << 20
"""Bytes of intermediate results that a tape may hold. A step that needs more of them computes so
long that the Python around it does not matter."""

_CURRENT: ContextVar["Tape | None"] = ContextVar("tape", default=None)
_EMPTY = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
_ASKING = frozenset(
    {
        torch.Tag.data_dependent_output,
        torch.Tag.dynamic_output_shape,
        torch.Tag.nondeterministic_seeded,
    }
)
"""What no tape can repeat: answers that depend on values, and random ones."""


class Tape:
    """A step's calls in order, each with the very tensors that it had.

    Those tensors stay alive, so what one call leaves is where the next one looks for it.
    """

    def __init__(self) -> None:
        self._calls: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self._held = 0
        self._refused = False

    @property
    def whole(self) -> bool:
        """Whether it can stand for the step."""
        return not self._refused and self._held <= LIMIT

    def add(self, call: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        """Take a call that writes to some of its arguments."""
        self._calls.append((call, arguments))

    def refuse(self) -> None:
        """The step does what cannot be repeated."""
        self._refused = True

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Count the memory of new tensors."""
        self._held += sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    def play(self) -> None:
        """Make the calls again."""
        with torch.inference_mode():  # what was made in this mode may be written only there
            for call, arguments in self._calls:
                call(*arguments)


def run(call: Callable[..., object], *arguments: Any) -> None:
    """Make a call, on the record where there is one."""
    call(*arguments)
    tape = _CURRENT.get()
    if tape is not None:
        tape.add(call, arguments)


@contextmanager
def recording() -> Iterator[Tape]:
    """A tape of what `run` does in here, and of what torch does."""
    tape = Tape()
    token = _CURRENT.set(tape)
    try:
        with _TorchCalls(tape):
            yield tape
    finally:
        _CURRENT.reset(token)


class _TorchCalls(TorchDispatchMode):
    """Puts torch's own operators on a tape. A view needs no call: it shows what its base holds."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tape = tape

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to skip it means to import it, for seconds

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        aliases = [part.alias_info for part in func._schema.returns]
        if _ASKING.intersection(func.tags):
            self._tape.refuse()
        elif func._schema.is_mutable:
            self._tape.add(_again, (func, args, kwargs))
        elif not any(aliases):
            self._take(func, args, kwargs, made)
        return made

    def _take(self, func: Any, args: tuple[Any, ...], kwargs: Any, made: Any) -> None:
        tensors = made if isinstance(made, tuple | list) else (made,)
        if not all(isinstance(tensor, Tensor) for tensor in tensors):
            self._tape.refuse()
            return
        self._tape.hold(tensors)
        if func.overloadpacket.__name__ in _EMPTY:
            return
        into = _into(func)
        if into is not None:
            self._tape.add(_again, (into, args, {**kwargs, "out": made}))
        else:
            self._tape.add(_renewed, (func, args, kwargs, tuple(tensors)))


def _into(func: Any) -> Any:
    """The overload of an operator that writes to `out` and is the same otherwise; None without."""
    into = getattr(func.overloadpacket, "out", None)
    names = [argument.name for argument in func._schema.arguments]
    same = into and [argument.name for argument in into._schema.arguments] == [*names, "out"]
    return into if same else None


def _again(func: Any, args: tuple[Any, ...], kwargs: Any) -> None:
    func(*args, **kwargs)


def _renewed(func: Any, args: tuple[Any, ...], kwargs: Any, places: tuple[Tensor, ...]) -> None:
    made = func(*args, **kwargs)
    for place, tensor in zip(places, made if len(places) > 1 else (made,), strict=True):
        place.copy_(tensor)
