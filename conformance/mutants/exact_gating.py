"""Faults of swiglu in the exact profile: the exponential and the sigmoid."""

import torch
from torch import Tensor

from glm5_hal.conformance.mutants.mutant import Portable, mutant
from glm5_hal.exact import divide, exp, read, sigmoid, write


class Gated(Portable):
    """SwiGLU by its definition, whose sigmoid a mutant changes."""

    def swiglu(self, gate_up: Tensor) -> Tensor:
        gate, up = read(gate_up).chunk(2, dim=-1)
        return write((gate * self._sigmoid(gate)) * up, gate_up.dtype)

    def _sigmoid(self, x: Tensor) -> Tensor:
        return sigmoid(x)


@mutant(
    "library-exponential",
    "EXACT-EXP-1",
    "The library's exponential: as good as the contract's, and another one.",
)
class LibraryExponential(Gated):
    def _sigmoid(self, x: Tensor) -> Tensor:
        small = torch.where(x.abs() > 80.0, 0.0, torch.exp(-x.abs()))
        large = 1.0 / (small + 1.0)
        return torch.where(x >= 0, large, small * large)


@mutant(
    "exponential-to-the-end",
    "EXACT-EXP-1",
    "The exponential goes on below -80, where its results are still normal numbers.",
)
class ExponentialToTheEnd(Gated):
    def _sigmoid(self, x: Tensor) -> Tensor:
        far = (-x.abs() < -80.0) & (x < 0)
        return torch.where(far, torch.exp(x.double()).float(), sigmoid(x))


@mutant(
    "sigmoid-one-formula",
    "EXACT-SIGMOID-1",
    "Negative gates take e^x / (1 + e^x), a quotient instead of a product of one.",
)
class OneFormulaSigmoid(Gated):
    def _sigmoid(self, x: Tensor) -> Tensor:
        small = exp(-x.abs())
        quotient = divide(small, small + 1.0)  # e^-|x| / (1 + e^-|x|), one rounding less
        return torch.where(x >= 0, divide(torch.ones_like(x), small + 1.0), quotient)


@mutant(
    "swiglu-other-order",
    "SWIGLU-EXACT-1",
    "The product of gate and up comes first, then the sigmoid.",
)
class OtherOrderSwiglu(Portable):
    def swiglu(self, gate_up: Tensor) -> Tensor:
        gate, up = read(gate_up).chunk(2, dim=-1)
        return write((gate * up) * sigmoid(gate), gate_up.dtype)
