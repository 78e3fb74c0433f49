"""Faults that show only when a call is repeated: again, elsewhere, under load."""

import os
import random
import time
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor

from glm5_hal import Level, Numerics, Weight
from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.conformance.mutants.matrices import split_matmul
from glm5_hal.conformance.mutants.mutant import mutant


@mutant(
    "atomic-split-sum",
    "RUN-1",
    "The parts of a split sum are added with atomics, in the order in which they finish.",
)
class AtomicSplitSum(CpuBackend):
    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        parts = [slice(start, start + 16) for start in range(0, x.shape[1], 16)]
        random.shuffle(parts)
        total = torch.zeros(x.shape[0], w.shape[0])
        for part in parts:
            total = total + x[:, part].float() @ w.tensor[:, part].float().T
        return total.to(out_dtype or x.dtype)


@mutant(
    "copy-not-awaited",
    "RUN-1",
    "An asynchronous copy to the host is handed out at once; the next submission flushes it.",
)
class CopyNotAwaited(CpuBackend):
    def __init__(self, index: int = 0) -> None:
        super().__init__(index)
        self._submitted: list[tuple[Tensor, Tensor]] = []
        self._pinned: dict[tuple[object, ...], Tensor] = {}

    def to_host(self, tensor: Tensor) -> Tensor:
        for target, source in self._submitted:
            target.copy_(source)
        key = (tuple(tensor.shape), tensor.dtype)
        target = self._pinned.setdefault(key, torch.zeros_like(tensor))
        self._submitted = [(target, tensor)]
        return target


@mutant(
    "order-of-the-process",
    "RUN-2",
    "The order of a sum follows a number that every process draws anew, as a hash seed is.",
)
class OrderOfTheProcess(CpuBackend):
    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        order = list(range(x.shape[1]))
        random.Random(os.getpid()).shuffle(order)
        shuffled = replace(w, data=w.tensor[:, order])
        return super().linear(x[:, order], shuffled, out_dtype)


@mutant(
    "zero-times-old-output",
    "RUN-3",
    "The product is added to 0 * out, as BLAS defines it, and nobody has written out: 0 * NaN.",
)
class ZeroTimesOldOutput(CpuBackend):
    def head_linear(self, x: Tensor, w: Weight) -> Tensor:
        out = torch.empty(x.shape[0], x.shape[1], w.shape[1], dtype=x.dtype)
        return out * 0.0 + super().head_linear(x, w)


@mutant(
    "aligned-path",
    "RUN-4",
    "Inputs on a 16-byte boundary take a vector path that keeps four sums instead of one.",
)
class AlignedPath(CpuBackend):
    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        if x.data_ptr() % 16 or x.shape[1] < 4:
            return super().linear(x, w, out_dtype)
        return split_matmul(x, w.tensor, 4).to(out_dtype or x.dtype)


@mutant(
    "strides-ignored",
    "RUN-4",
    "The kernel takes a pointer and computes the strides of a contiguous tensor.",
)
class StridesIgnored(CpuBackend):
    def rope(self, x: Tensor, positions: Tensor, table: Weight, interleaved: bool) -> Tensor:
        strides = (x.shape[1] * x.shape[2], x.shape[2], 1)
        return super().rope(x.as_strided(x.shape, strides), positions, table, interleaved)


@mutant(
    "shared-workspace",
    "RUN-5",
    "One workspace serves all streams: a second call overwrites the operands of the first.",
)
class SharedWorkspace(CpuBackend):
    def __init__(self, index: int = 0) -> None:
        super().__init__(index)
        self._workspace: dict[torch.Size, Tensor] = {}

    def swiglu(self, gate_up: Tensor) -> Tensor:
        self._workspace[gate_up.shape] = gate_up.clone()
        time.sleep(0.001)  # long enough for another thread to come by
        return super().swiglu(self._workspace[gate_up.shape])


_CLAIMS = {**CpuBackend.capabilities.claims}
_CLAIMS[Numerics.FAST] = _CLAIMS[Numerics.FAST] | {Level.THREAD_INVARIANT}


@mutant(
    "sums-by-thread",
    "RUN-6",
    "Each thread sums its share of a token's experts; the backend claims thread invariance.",
)
class SumsByThread(CpuBackend):
    capabilities = replace(CpuBackend.capabilities, claims=MappingProxyType(_CLAIMS))

    def moe_combine(
        self, rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None = None
    ) -> Tensor:
        place = torch.argsort(slots).unflatten(0, weights.shape)
        weighted = rows[place].float() * weights.unsqueeze(-1)  # [T, k, D]
        parts = [part.sum(1) for part in weighted.chunk(torch.get_num_threads(), dim=1)]
        total = torch.stack(parts).sum(0)
        return (total if shared is None else total + shared.float()).to(rows.dtype)
