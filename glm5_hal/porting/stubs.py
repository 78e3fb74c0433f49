"""The methods of a backend that has none yet, as source."""

import inspect
import textwrap
from collections.abc import Iterator

from glm5_hal.backend import Backend
from glm5_hal.contract import OPS, Array, Kind, Op

_WIDTH = 100
_INDENT = " " * 8


def methods() -> str:
    """A method for every primitive op, marked as not written; indented as in a class."""
    return "\n\n".join(_method(op.name) for op in OPS.values() if op.kind is Kind.PRIMITIVE)


def _method(op: str) -> str:
    # never runs: `not_written` answers first; a type checker wants a body that returns nothing
    lines = ["    @not_written", _signature(op), *_docstring(OPS[op])]
    return "\n".join([*lines, f"{_INDENT}raise NotImplementedError"])


def _signature(op: str) -> str:
    """The method's head as `Backend` has it, formatted as it is there."""
    source = inspect.getsource(getattr(Backend, op))
    return source[: source.index(f"{_INDENT}self._missing(")].rstrip()


def _docstring(op: Op[..., object]) -> Iterator[str]:
    first = inspect.cleandoc(op.__doc__ or "").partition("\n\n")[0]
    yield from _wrapped(f'"""{" ".join(first.split())}')
    yield ""
    for name, array in op.arguments.items():
        yield from _wrapped(f"{name}: {_shown(array)}", hanging="    ")
    for array in op.results:
        yield from _wrapped(f"result: {_shown(array)}", hanging="    ")
    ids = list(op.requirements)
    yield from _wrapped(f"Requirements: {', '.join(ids)}.", hanging="    ")
    yield f'{_INDENT}"""'


def _wrapped(text: str, hanging: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=_INDENT,
        subsequent_indent=_INDENT + hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _shown(array: Array) -> str:
    shape = ", ".join(array.shape.split())
    return f"[{shape}] {array.dtypes.label}" if array.dtypes else f"[{shape}]"
