"""Faults of rope in the exact profile: reading, writing, and the order of roundings."""

import torch
from torch import Tensor

from glm5_hal import Weight
from glm5_hal.conformance.mutants.mutant import Portable, mutant
from glm5_hal.exact import read, write


class Turning(Portable):
    """Rope by its definition, each step of which a mutant changes."""

    def rope(self, x: Tensor, positions: Tensor, table: Weight, interleaved: bool) -> Tensor:
        cos, sin = self._read(table.tensor[positions.long()]).unsqueeze(1).chunk(2, dim=-1)
        wide = self._read(x)
        a, b = (wide[..., 0::2], wide[..., 1::2]) if interleaved else wide.chunk(2, dim=-1)
        turned = self._pair(a, -b, cos, sin), self._pair(b, a, cos, sin)
        joined = (
            torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)
        )
        return self._write(joined, x.dtype)

    def _read(self, x: Tensor) -> Tensor:
        return read(x)

    def _write(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return write(x, dtype)

    def _pair(self, a: Tensor, b: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return a * cos + b * sin


@mutant(
    "operands-not-flushed",
    "EXACT-READ-1",
    "Operands are taken as they are: the threshold was thought to be about subnormal values.",
)
class OperandsNotFlushed(Turning):
    def _read(self, x: Tensor) -> Tensor:
        return x.float()


@mutant(
    "threshold-itself-flushed",
    "EXACT-READ-1",
    "The threshold is compared the other way: 2^-50 itself reads as zero.",
)
class ThresholdItselfFlushed(Turning):
    def _read(self, x: Tensor) -> Tensor:
        return torch.where(x.float().abs() <= 2.0**-50, 0.0, x.float())


@mutant(
    "negative-zero-kept",
    "EXACT-WRITE-1",
    "Small results are flushed and keep their sign.",
)
class NegativeZeroKept(Turning):
    def _write(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        out = write(x, dtype)
        return torch.where((out == 0) & x.signbit(), -0.0, out)


@mutant(
    "small-results-kept",
    "EXACT-WRITE-1",
    "Results are stored as they come.",
)
class SmallResultsKept(Turning):
    def _write(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.where(x.isnan(), torch.nan, x + 0.0).to(dtype)


@mutant(
    "rope-contracted",
    "EXACT-ROUNDING-1",
    "The compiler contracts a product and a sum into one fused multiply-add.",
)
class ContractedRope(Turning):
    def _pair(self, a: Tensor, b: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return ((b * sin).double() + a.double() * cos.double()).float()


@mutant(
    "rope-in-double",
    "ROPE-EXACT-1",
    "The rotation is computed wider than the definition says, and rounded once.",
)
class DoubleRope(Turning):
    def _pair(self, a: Tensor, b: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return (a.double() * cos.double() + b.double() * sin.double()).float()
