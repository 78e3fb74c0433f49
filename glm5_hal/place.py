"""Where in the model an op call stands, for those who watch: ``layer3``, ``mtp``, or ``model``."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

OUTSIDE = "model"
"""The place of calls in front of the layers and behind them."""

_PLACE: ContextVar[str] = ContextVar("glm5_hal_place", default=OUTSIDE)


@contextmanager
def place(name: str) -> Iterator[None]:
    """Op calls inside belong to the part of the model called `name`."""
    token = _PLACE.set(name)
    try:
        yield
    finally:
        _PLACE.reset(token)


def current() -> str:
    """The part of the model whose op calls run at the moment, in this thread."""
    return _PLACE.get()
