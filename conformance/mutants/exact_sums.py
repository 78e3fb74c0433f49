"""Faults of exact sums: fixing, digits, the one rounding, ranks. All in the exact profile."""

from dataclasses import replace

import torch
from torch import Tensor

from glm5_hal import Weight
from glm5_hal.conformance.mutants.mutant import Portable, mutant
from glm5_hal.exact import (
    ACTIVATION_DIGITS,
    WRITE,
    Fixed,
    digits_of,
    exact_sums,
    fixed,
    power,
    rounded,
    write,
)
from glm5_hal.handles import RowShard
from glm5_hal.ops.linear_limbs import LIMB_BITS


class Summing(Portable):
    """Linear by its definition, each step of which a mutant changes."""

    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        rows = self._fixed(x, ACTIVATION_DIGITS)
        columns = self._fixed(w.tensor, digits_of(w.dtype))
        exponent = rows.exponent.unsqueeze(-1) + columns.exponent
        finite = rows.finite.unsqueeze(-1) & columns.finite
        sums = self._sums(rows, columns)
        return self._scaled(sums, exponent - rows.bits - columns.bits, finite, out_dtype or x.dtype)

    def _fixed(self, x: Tensor, digits: int) -> Fixed:
        return fixed(x, digits)

    def _sums(self, x: Fixed, y: Fixed) -> Tensor:
        return exact_sums(x, y)

    def _scaled(self, sums: Tensor, exponent: Tensor, finite: Tensor, dtype: torch.dtype) -> Tensor:
        value = sums.float().double() * power(exponent)
        return write(torch.where(finite, value, torch.nan), dtype)


def _unrounded(x: Tensor, made: Fixed) -> Tensor:
    """x in units of its vector, before rounding, float64; zero where it is not finite."""
    wide = torch.where(made.finite.unsqueeze(-1), x.double(), 0.0)
    return wide * power(made.bits - made.exponent).unsqueeze(-1)


@mutant(
    "fixing-away-from-zero",
    "EXACT-FIXED-1",
    "Integers are made by adding a half and cutting: ties go away from zero.",
)
class FixingAwayFromZero(Summing):
    def _fixed(self, x: Tensor, digits: int) -> Fixed:
        made = fixed(x, digits)
        units = _unrounded(x, made)
        return replace(made, integers=units.sign() * torch.floor(units.abs() + 0.5))


@mutant(
    "fixing-one-bit-more",
    "EXACT-FIXED-1",
    "The top digit is given seven bits and a sign, and wraps where it rounds up to +128.",
)
class FixingOneBitMore(Summing):
    def _fixed(self, x: Tensor, digits: int) -> Fixed:
        made = fixed(x, digits)
        doubled = torch.round(2 * _unrounded(x, made))
        limit = 2.0 ** (2 + 8 * (digits - 1) + 5)
        wrapped = torch.where(doubled >= limit, doubled - 2 * limit, doubled)
        return replace(made, integers=wrapped, exponent=made.exponent - 1)


@mutant(
    "fixing-clamped",
    "EXACT-FIXED-1",
    "Integers are clamped to 2^(8n-2) - 1, as a symmetric range of a type would be.",
)
class FixingClamped(Summing):
    def _fixed(self, x: Tensor, digits: int) -> Fixed:
        made = fixed(x, digits)
        most = 2.0**made.bits - 1
        return replace(made, integers=made.integers.clamp(-most, most))


@mutant(
    "fixing-by-matrix",
    "EXACT-FIXED-1",
    "One exponent serves all rows of a batch: the largest of them.",
)
class FixingByMatrix(Summing):
    def _fixed(self, x: Tensor, digits: int) -> Fixed:
        made = fixed(x, digits)
        if not x.numel():
            return made
        return fixed(x, digits, made.exponent.amax().expand_as(made.exponent))


@mutant(
    "fixing-subnormals",
    "EXACT-FIXED-2",
    "Subnormal values are fixed like others, on a chip that happens to keep them.",
)
class FixingSubnormals(Summing):
    def _fixed(self, x: Tensor, digits: int) -> Fixed:
        made = fixed(x, digits)
        return replace(made, integers=torch.round(_unrounded(x, made)))


@mutant(
    "lowest-digits-skipped",
    "EXACT-SUM-1",
    "The product of the two lowest digits is left out, as below the rounding of most sums.",
)
class LowestDigitsSkipped(Summing):
    def _sums(self, x: Fixed, y: Fixed) -> Tensor:
        low = [part.integers - 256 * torch.round(part.integers / 256) for part in (x, y)]
        return exact_sums(x, y) - (low[0] @ low[1].mT).long()


@mutant(
    "third-digit-dropped",
    "EXACT-SUM-1",
    "Activations are kept with two digits, which is more than bfloat16 holds of one value.",
)
class ThirdDigitDropped(Summing):
    def _sums(self, x: Fixed, y: Fixed) -> Tensor:
        return exact_sums(replace(x, integers=256 * torch.round(x.integers / 256)), y)


@mutant(
    "sums-in-float32",
    "EXACT-SUM-1",
    "An integer product is lowered through float32, which is exact as far as 2^24.",
)
class SumsInFloat32(Summing):
    def _sums(self, x: Fixed, y: Fixed) -> Tensor:
        return (x.integers.float() @ y.integers.float().mT).long()


@mutant(
    "sums-saturate",
    "EXACT-SUM-1",
    "The accumulator of a digit pair saturates at 2^30, as some dot instructions do earlier.",
)
class SumsSaturate(Summing):
    def _sums(self, x: Fixed, y: Fixed) -> Tensor:
        low = [part.integers - 256 * torch.round(part.integers / 256) for part in (x, y)]
        pair = (low[0] @ low[1].mT).long()
        most = 1 << 30
        return exact_sums(x, y) - pair + pair.clamp(-most, most)


@mutant(
    "sum-truncated",
    "EXACT-ROUND-1",
    "The integer becomes a float by cutting its low bits.",
)
class SumTruncated(Summing):
    def _scaled(self, sums: Tensor, exponent: Tensor, finite: Tensor, dtype: torch.dtype) -> Tensor:
        nearest = sums.float()
        up = nearest.double().abs() > sums.double().abs()
        word = nearest.view(torch.int32) - up.int()
        cut = word.view(torch.float32).double() * power(exponent)
        return write(torch.where(finite, cut, torch.nan), dtype)


@mutant(
    "rounded-straight-to-bf16",
    "EXACT-ROUND-1",
    "The sum is rounded to the output dtype at once, without float32 between.",
)
class RoundedStraightToBf16(Summing):
    def _scaled(self, sums: Tensor, exponent: Tensor, finite: Tensor, dtype: torch.dtype) -> Tensor:
        if dtype != torch.bfloat16:
            return super()._scaled(sums, exponent, finite, dtype)
        # one more or less than a tie of float32 is kept by rounding to odd
        nearest = sums.float()
        gone = nearest.long() != sums
        below = torch.where(nearest.double().abs() > sums.double().abs(), 1, 0).int()
        word = torch.where(gone, (nearest.view(torch.int32) - below) | 1, nearest.view(torch.int32))
        value = word.view(torch.float32).double() * power(exponent)
        return write(torch.where(finite, value, torch.nan), dtype)


@mutant(
    "nan-payload-kept",
    "EXACT-NAN-1",
    "The NaN of the operand is handed on with the bits that it came with.",
)
class NanPayloadKept(Summing):
    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        out = super().linear(x, w, out_dtype)
        bits = torch.tensor(0x7FC54321, dtype=torch.int32).view(torch.float32)
        wide = torch.where(out.isnan(), bits, out.float())
        if out.dtype != torch.bfloat16:
            return wide
        upper = (wide.view(torch.int32) >> 16).to(torch.int16).view(torch.bfloat16)
        return torch.where(out.isnan(), upper, out)


@mutant(
    "infinity-clamped",
    "EXACT-NAN-1",
    "Results are clamped to the range of float32 before they are stored.",
)
class InfinityClamped(Summing):
    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        out = super().linear(x, w, out_dtype)
        most = torch.finfo(out.dtype).max
        return out.clamp(-most, most)


@mutant(
    "small-products-kept",
    "EXACT-WRITE-1",
    "Results are stored as they come, the smallest too.",
)
class SmallProductsKept(Summing):
    def _scaled(self, sums: Tensor, exponent: Tensor, finite: Tensor, dtype: torch.dtype) -> Tensor:
        value = (sums.float().double() * power(exponent)).float()
        return rounded(torch.where(finite, value, torch.nan), dtype)


@mutant(
    "small-products-signed",
    "EXACT-WRITE-1",
    "A small negative result is replaced by zero times itself, which is -0.",
)
class SmallProductsSigned(Summing):
    def _scaled(self, sums: Tensor, exponent: Tensor, finite: Tensor, dtype: torch.dtype) -> Tensor:
        out = super()._scaled(sums, exponent, finite, dtype)
        small = (sums < 0) & finite & (sums.double() * power(exponent) > -WRITE)
        return torch.where(small, -0.0, out)


@mutant(
    "linear-exact-double",
    "LINEAR-EXACT-1",
    "A float64 product stands in for the integers: more bits than the definition keeps.",
)
class DoubleLinear(Portable):
    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        return (x.double() @ w.tensor.double().T).to(out_dtype or x.dtype)


@mutant(
    "head-linear-shared-exponent",
    "HEAD-LINEAR-EXACT-1",
    "A token's heads share one exponent.",
)
class SharedExponentHeadLinear(Portable):
    def head_linear(self, x: Tensor, w: Weight) -> Tensor:
        query = fixed(x, ACTIVATION_DIGITS)
        largest = query.exponent.amax(-1, keepdim=True) if x.numel() else query.exponent
        shared = fixed(x, ACTIVATION_DIGITS, largest.expand_as(query.exponent))
        units = power(shared.exponent - shared.bits).unsqueeze(-1)
        kept = torch.where(shared.finite.unsqueeze(-1), shared.integers * units, torch.nan)
        return super().head_linear(kept.to(x.dtype), w)


@mutant(
    "grouped-linear-one-exponent",
    "GROUPED-LINEAR-EXACT-1",
    "An expert's rows share one exponent.",
)
class OneExponentGroupedLinear(Portable):
    def grouped_linear(self, x: Tensor, w: Weight, offsets: Tensor) -> Tensor:
        made = fixed(x, ACTIVATION_DIGITS)
        if not x.numel():
            return super().grouped_linear(x, w, offsets)
        shared = fixed(x, ACTIVATION_DIGITS, made.exponent.amax().expand_as(made.exponent))
        units = power(shared.exponent - shared.bits).unsqueeze(-1)
        kept = torch.where(shared.finite.unsqueeze(-1), shared.integers * units, torch.nan)
        return super().grouped_linear(kept.float().to(x.dtype), w, offsets)


# --- ranks ---


@mutant(
    "exponent-not-finite-lost",
    "ROW-EXPONENTS-1",
    "A row with NaN gives the exponent of its other values, and the other ranks never know.",
)
class NotFiniteLost(Portable):
    def row_exponents(self, x: Tensor) -> Tensor:
        return super().row_exponents(x.nan_to_num(0.0, 0.0, 0.0))


@mutant(
    "limbs-own-exponent",
    "LINEAR-LIMBS-1",
    "A rank fixes its part of a row with the part's own exponent.",
)
class LimbsOwnExponent(Portable):
    def linear_limbs(self, x: Tensor, w: Weight, exponents: Tensor) -> Tensor:
        return super().linear_limbs(x, w, super().row_exponents(x))


@mutant(
    "limbs-own-weight-exponent",
    "LINEAR-LIMBS-1",
    "A shard of the weight is fixed with the exponents of its own columns.",
)
class LimbsOwnWeightExponent(Portable):
    def linear_limbs(self, x: Tensor, w: Weight, exponents: Tensor) -> Tensor:
        shard = w.shard
        own = fixed(shard.columns, digits_of(w.dtype))
        narrow = RowShard(shard.columns, own.exponent, own.finite)
        return super().linear_limbs(x, replace(w, data=narrow), exponents)


@mutant(
    "limb-carry-lost",
    "LINEAR-FROM-LIMBS-1",
    "Limbs are joined by putting their bits side by side: what ranks carried over is cut off.",
)
class LimbCarryLost(Portable):
    def linear_from_limbs(
        self, limbs: Tensor, exponents: Tensor, w: Weight, out_dtype: torch.dtype
    ) -> Tensor:
        mask = (1 << LIMB_BITS) - 1
        kept = limbs.clone()
        kept[..., :2] &= mask
        return super().linear_from_limbs(kept, exponents, w, out_dtype)


@mutant(
    "shard-fixed-alone",
    "EXACT-RANKS-1",
    "A shard of the weight is prepared from its own columns, without those of the other ranks.",
)
class ShardFixedAlone(Portable):
    def prepare_shard(self, tensor: Tensor, start: int, stop: int) -> Weight:
        return super().prepare_shard(tensor[:, start:stop], 0, stop - start)
