"""The seam to a vendor's front end: what it must offer, and where it is found.

A package offers one with an entry point that names an instance::

    [project.entry-points."glm5_hal.front_ends"]
    mychip = "my_package.lowering:FRONT_END"
"""

from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.resources import files
from typing import Any, Protocol, runtime_checkable

import yaml

from glm5_hal.conformance.audit.compiler import Kernel
from glm5_hal.conformance.errors import AskedError, UnusableError

GROUP = "glm5_hal.front_ends"


@runtime_checkable
class FrontEnd(Protocol):
    """A vendor's compiler up to the code that its documentation describes."""

    @property
    def target(self) -> str:
        """The chip that it lowers for."""

    @property
    def tiles(self) -> str:
        """The chip's table of tiles, ``PACKAGE:FILE``."""

    @property
    def restrictions(self) -> str:
        """What the documentation rules out, ``PACKAGE:FILE``: the fields of `Restrictions`."""

    def version(self) -> str:
        """The compiler's name and version; ImportError where it is not installed."""

    def lower(self, kernel: Kernel) -> tuple[str, str]:
        """TTIR and linalg of a kernel, as text. Whatever it raises is why it takes no such kernel.

        A message's first line is shown.
        """


@dataclass(frozen=True)
class Restrictions:
    """What a front end accepts and its documentation rules out.

    Attributes:
        source: where that is written.
        grid: most programs of one launch.
        types: of numbers, that the chip has not, as MLIR writes them.
        precisions: what a float32 product may be asked for.
        operations: in TTIR, with the types on which they must not stand; ``any`` for all.
        functions: of the vendor's library, that may be called.
        looped_atomics: kinds of atomic updates that may stand in a loop.
        row: bytes that the last dimension of a tensor is rounded up to.
        memory: bytes that the tensors may take that are alive at once.
        buffered: of these, what is left where every load has a second buffer.
        doubling: option of a launch that turns second buffers off where it is false.
    """

    source: str
    grid: int
    types: tuple[str, ...]
    precisions: tuple[str, ...]
    operations: dict[str, tuple[str, ...]]
    functions: tuple[str, ...]
    looped_atomics: tuple[str, ...]
    row: int
    memory: int
    buffered: int
    doubling: str


def read_restrictions(place: str) -> Restrictions:
    """Restrictions from ``PACKAGE:FILE``, a YAML file."""
    package, _, file = place.partition(":")
    record: dict[str, Any] = yaml.safe_load(files(package).joinpath(file).read_text("utf-8"))
    for name in ("types", "precisions", "functions", "looped_atomics"):
        record[name] = tuple(record[name])
    record["operations"] = {name: tuple(kinds) for name, kinds in record["operations"].items()}
    return Restrictions(**record)


def front_end(name: str = "") -> tuple[str, FrontEnd]:
    """The name and the front end that is called so; the only one there is, where none is named.

    Raises:
        AskedError: none is called so, or several are there and none was named.
        UnusableError: none is there at all, or it does not load.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    if not points:
        raise UnusableError(f"no installed package offers a front end (entry points {GROUP})")
    if not name and len(points) > 1:
        raise AskedError(f"several front ends are there: {', '.join(points)}; name one")
    point = points.get(name) if name else next(iter(points.values()))
    if point is None:
        raise AskedError(f"no front end {name!r}; there are: {', '.join(points)}")
    try:
        found = point.load()
    except (ImportError, AttributeError) as error:
        raise UnusableError(f"front end {point.name} = {point.value} does not load: {error}") from (
            error
        )
    if not isinstance(found, FrontEnd):
        raise UnusableError(f"{point.value} is no front end: see {__name__}.FrontEnd")
    return point.name, found
