"""Making the golden digests: every case of the exact profile on the definitions."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import torch

from glm5_hal.conformance import golden
from glm5_hal.conformance.case import Status
from glm5_hal.conformance.catalogue import catalogue
from glm5_hal.conformance.errors import UnusableError
from glm5_hal.conformance.judge import judge
from glm5_hal.conformance.reference_backend import reference_runtime
from glm5_hal.levels import Numerics

Observer = Callable[[int, int], None]
"""Called with (finished, in all)."""

_GROUP = 24
"""Cases that a process takes at a time."""


@dataclass(frozen=True)
class Drift:
    """How digests differ from the recorded ones.

    Attributes:
        changed: cases with other digests.
        new: cases without recorded digests.
        gone: recorded digests of no case.
    """

    changed: tuple[str, ...]
    new: tuple[str, ...]
    gone: tuple[str, ...]

    @property
    def none(self) -> bool:
        """Whether everything is as recorded."""
        return not (self.changed or self.new or self.gone)


def names(*, quick: bool = False) -> list[str]:
    """Cases of the exact profile, in the catalogue's order."""
    return [
        case.id
        for case in catalogue().values()
        if case.profile is Numerics.EXACT and (case.quick or not quick)
    ]


def make(
    wanted: Sequence[str], workers: int = 1, observe: Observer | None = None
) -> dict[str, golden.Digests]:
    """Digests of cases by the definitions; cases that leave none are left out.

    Raises:
        UnusableError: the definitions do not pass a case.
    """
    found: dict[str, golden.Digests] = {}
    problems: list[str] = []
    done = 0
    for group in _work([wanted[n : n + _GROUP] for n in range(0, len(wanted), _GROUP)], workers):
        found |= group.digests
        problems += group.problems
        done += group.size
        if observe is not None:
            observe(done, len(wanted))
    if problems:
        raise UnusableError("the definitions do not pass the suite:\n" + "\n".join(problems))
    return {name: digests for name, digests in found.items() if digests}


def drift(made: dict[str, golden.Digests], *, whole: bool) -> Drift:
    """Compare with what is recorded; of digests of a part of the cases nothing can be gone."""
    recorded = golden.known()
    return Drift(
        changed=tuple(n for n, d in made.items() if n in recorded and recorded[n] != d),
        new=tuple(n for n in made if n not in recorded),
        gone=tuple(n for n in recorded if n not in made) if whole else (),
    )


@dataclass(frozen=True)
class _Group:
    size: int
    digests: dict[str, golden.Digests]
    problems: tuple[str, ...]


def _work(groups: Sequence[Sequence[str]], workers: int) -> Iterator[_Group]:
    if workers == 1:
        yield from map(_make, groups)
        return
    with ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(1,),
    ) as pool:
        for future in as_completed([pool.submit(_make, group) for group in groups]):
            yield future.result()


def _make(group: Sequence[str]) -> _Group:
    with golden.set_aside():
        results = [judge(catalogue()[name], reference_runtime(Numerics.EXACT)) for name in group]
    return _Group(
        len(group),
        {result.id: result.digests for result in results},
        tuple(f"{r.id}: {r.message}" for r in results if r.status is not Status.PASS),
    )
