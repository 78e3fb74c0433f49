"""Faults of rms_norm and layer_norm in the exact profile: means, roots and division."""

import torch
from torch import Tensor

from glm5_hal import Weight
from glm5_hal.conformance.mutants.mutant import Portable, mutant
from glm5_hal.exact import (
    ACTIVATION_DIGITS,
    divide,
    fixed,
    power,
    read,
    square_root,
    square_sum,
    write,
)


def _near_reciprocal(x: Tensor) -> Tensor:
    """1 / x one unit too small where the quotient was rounded up, as a Newton step leaves it."""
    right = 1.0 / x
    above = right.double() * x.double() > 1
    return torch.where(above, torch.nextafter(right, torch.zeros_like(right)), right)


class Normed(Portable):
    """RMSNorm by its definition, each step of which a mutant changes."""

    def rms_norm(
        self, x: Tensor, w: Weight, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        h = x if residual is None else self._sum(x, residual)
        rows = fixed(h, ACTIVATION_DIGITS)
        mean = divide(square_sum(rows).float(), torch.tensor(float(h.shape[-1])))
        square = write(mean.double() * power(2 * (rows.exponent - rows.bits)), torch.float32)
        scale = torch.where(rows.finite, self._inverse(square + torch.tensor(eps)), torch.nan)
        return self._scaled(h, scale.unsqueeze(-1), w.tensor, x.dtype), h

    def _sum(self, x: Tensor, residual: Tensor) -> Tensor:
        return write(read(x) + read(residual), x.dtype)

    def _inverse(self, square: Tensor) -> Tensor:
        return divide(torch.ones(()), square_root(square))

    def _scaled(self, h: Tensor, scale: Tensor, w: Tensor, dtype: torch.dtype) -> Tensor:
        return write((read(h) * scale) * read(w), dtype)


@mutant(
    "reciprocal-root",
    "EXACT-DIVIDE-1",
    "One instruction gives 1 / sqrt(x), correctly rounded at best: one rounding instead of two.",
)
class ReciprocalRoot(Normed):
    def _inverse(self, square: Tensor) -> Tensor:
        return torch.rsqrt(square.double()).float()


@mutant(
    "approximate-reciprocal",
    "EXACT-DIVIDE-1",
    "The reciprocal is a table and one Newton step.",
)
class ApproximateReciprocal(Normed):
    def _inverse(self, square: Tensor) -> Tensor:
        return _near_reciprocal(square_root(square))


@mutant(
    "rms-norm-residual-not-flushed",
    "RMS-NORM-EXACT-1",
    "The sum with the residual is a plain addition.",
)
class PlainResidual(Normed):
    def _sum(self, x: Tensor, residual: Tensor) -> Tensor:
        return x + residual


@mutant(
    "rms-norm-weight-first",
    "RMS-NORM-EXACT-2",
    "Scale and weight are multiplied first, which saves a product a row.",
)
class WeightFirst(Normed):
    def _scaled(self, h: Tensor, scale: Tensor, w: Tensor, dtype: torch.dtype) -> Tensor:
        return write(read(h) * (scale * read(w)), dtype)


@mutant(
    "layer-norm-float-mean",
    "LAYER-NORM-EXACT-1",
    "The mean is rounded to float32 and subtracted from the values.",
)
class FloatMeanLayerNorm(Portable):
    def layer_norm(self, x: Tensor, w: Weight, b: Weight, eps: float) -> Tensor:
        wide = x.float()
        mean = wide.double().mean(-1, keepdim=True).float()
        return super().layer_norm(wide - mean, w, b, eps).to(x.dtype)


@mutant(
    "layer-norm-variance-of-squares",
    "LAYER-NORM-EXACT-2",
    "The variance is the mean of squares less the square of the mean, in float64.",
)
class VarianceOfSquares(Portable):
    def layer_norm(self, x: Tensor, w: Weight, b: Weight, eps: float) -> Tensor:
        wide = x.double()
        mean = wide.mean(-1, keepdim=True)
        variance = (wide.square().mean(-1, keepdim=True) - mean.square()).clamp(min=0.0)
        scale = divide(torch.ones(()), square_root(variance.float() + torch.tensor(eps)))
        value = (read((wide - mean).float()) * scale) * read(w.tensor) + read(b.tensor)
        return write(value, x.dtype)
