"""The chips that kernels are compiled for."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from glm5_hal.conformance.errors import AskedError


@dataclass(frozen=True)
class Target:
    """One chip as the compiler sees it.

    Attributes:
        name: of the chip's instruction set.
        backend: which of the compiler's backends makes code for it.
        arch: what that backend calls it.
        warp_size: threads that run in step.
        shared: bytes of shared memory that one block may use.
        threads: most threads of a block.
        grid: most blocks of one launch along x, y and z.
        chips: what it is sold as.
        expected: ``compiles``, or ``refused`` where the installed compiler does not know it.
    """

    name: str
    backend: str
    arch: int | str
    warp_size: int
    shared: int
    threads: int
    grid: tuple[int, int, int]
    chips: str = ""
    expected: str = "compiles"


@cache
def targets() -> dict[str, Target]:
    """Every target by name."""
    text = resources.files("glm5_hal.conformance.audit").joinpath("targets.yaml").read_text("utf-8")
    return {
        name: Target(name=name, **{**entry, "grid": tuple(entry["grid"])})
        for name, entry in yaml.safe_load(text).items()
    }


def chosen(names: Sequence[str]) -> list[Target]:
    """Targets by name, each once; every one where none is named.

    Raises:
        AskedError: a name that is no target.
    """
    known = targets()
    for name in names:
        if name not in known:
            raise AskedError(f"no target {name!r}; known: {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names or known)]
