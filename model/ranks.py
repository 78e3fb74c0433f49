"""Several processes that hold one model together: who holds what, and what they exchange.

Attention heads, feed-forward columns and the vocabulary are split evenly, routed experts as well;
everything else is held by all. Activations are on every rank in full. What a rank sends is
integers (exponents, limbs) or rows as they are, so the bytes of a result do not depend on how
many ranks there are, nor on the order in which a library adds.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from glm5_hal import HalError, Numerics, Runtime, Weight, ops

R = TypeVar("R")


class RankError(HalError):
    """Ranks that cannot run a model together."""


@runtime_checkable
class Ranks(Protocol):
    """One rank's view of all.

    Attributes:
        rank: which one this is.
        size: how many there are.
    """

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...

    def maximum(self, x: Tensor) -> Tensor:
        """Elementwise maximum of an int32 tensor over all ranks."""
        ...

    def total(self, x: Tensor) -> Tensor:
        """Elementwise sum of an int32 tensor over all ranks."""
        ...

    def joined(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """The rows of all ranks, rank 0's first; `counts` says how many each has."""
        ...


def span(total: int, ranks: Ranks) -> slice:
    """Which of `total` equal things this rank holds; ranks beyond them hold none."""
    return _span(total, ranks.rank, ranks.size)


def spans(total: int, ranks: Ranks) -> list[slice]:
    """`span` of every rank."""
    return [_span(total, rank, ranks.size) for rank in range(ranks.size)]


def _span(total: int, rank: int, size: int) -> slice:
    return slice(total * rank // size, total * (rank + 1) // size)


def row_linear(x: Tensor, w: Weight, ranks: Ranks) -> Tensor:
    """``x @ w.T`` where each rank holds some columns of x [T, k] and of w [N, k]: [T, N]."""
    if ranks.size == 1:
        return ops.linear(x, w)
    exponents = ranks.maximum(ops.row_exponents(x))
    limbs = ranks.total(ops.linear_limbs(x, w, exponents))
    return ops.linear_from_limbs(limbs, exponents, w, x.dtype)


@dataclass(frozen=True)
class Alone:
    """One process that holds everything."""

    rank: int = 0
    size: int = 1

    def maximum(self, x: Tensor) -> Tensor:
        return x

    def total(self, x: Tensor) -> Tensor:
        return x

    def joined(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        return rows


ALONE = Alone()


class Processes:
    """Ranks as processes of torch.distributed, started by torchrun or by anything like it.

    Args:
        collectives: the torch.distributed backend that moves the tensors.
    """

    def __init__(self, collectives: str) -> None:
        import torch.distributed as dist

        if not dist.is_initialized():
            dist.init_process_group(collectives)
        self._dist = dist
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()

    def maximum(self, x: Tensor) -> Tensor:
        self._dist.all_reduce(x, op=self._dist.ReduceOp.MAX)
        return x

    def total(self, x: Tensor) -> Tensor:
        self._dist.all_reduce(x, op=self._dist.ReduceOp.SUM)
        return x

    def joined(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        most = max(counts)
        padded = rows.new_zeros(most, *rows.shape[1:])
        padded[: rows.shape[0]] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        self._dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def of_environment(runtime: Runtime, environ: Mapping[str, str] = os.environ) -> Ranks:
    """The ranks that this process was started among: RANK and WORLD_SIZE, as torchrun sets them.

    Raises:
        RankError: several ranks outside the exact profile.
    """
    size = int(environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    check_profile(runtime, size)
    return Processes(runtime.backend.collectives)


def check_profile(runtime: Runtime, size: int) -> None:
    """Refuse several ranks where their sums would be rounded in some order."""
    if size > 1 and runtime.plan.numerics is not Numerics.EXACT:
        raise RankError(
            f"{size} ranks in the {runtime.plan.numerics.value} profile: only the exact one is "
            "defined over several. Set GLM5_HAL_NUMERICS=exact, or run one process."
        )


class Threads:
    """Ranks as threads of one process, for tests and for a single device.

    Args:
        size: how many.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._slots: list[Tensor | None] = [None] * size
        self._meeting = threading.Barrier(size)

    def run(self, work: Callable[[Ranks], R]) -> list[R]:
        """What `work` returns on each rank; the first error of any is raised."""
        results: dict[int, R] = {}
        errors: list[BaseException] = []

        def one(rank: int) -> None:
            try:
                results[rank] = work(_Thread(self, rank, self._size))
            except BaseException as error:
                errors.append(error)
                self._meeting.abort()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self._size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        real = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
        if errors:
            raise (real or errors)[0]
        return [results[rank] for rank in range(self._size)]

    def exchange(self, rank: int, x: Tensor) -> list[Tensor]:
        """Everybody's tensor, in order of rank."""
        self._slots[rank] = x
        self._meeting.wait()
        everybody = [slot for slot in self._slots if slot is not None]
        self._meeting.wait()  # nobody may go on before all have looked
        return everybody


@dataclass(frozen=True)
class _Thread:
    """One rank of `Threads`."""

    group: Threads
    rank: int
    size: int

    def maximum(self, x: Tensor) -> Tensor:
        return torch.stack(self.group.exchange(self.rank, x)).amax(0)

    def total(self, x: Tensor) -> Tensor:
        return torch.stack(self.group.exchange(self.rank, x)).sum(0, dtype=torch.int32)

    def joined(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        return torch.cat(self.group.exchange(self.rank, rows))
