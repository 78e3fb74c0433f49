"""Faults in the exact profile that need a second mode or the whole model to show."""

import torch
from torch import Tensor

from glm5_hal import Weight
from glm5_hal.conformance.mutants.exact_turning import ContractedRope
from glm5_hal.conformance.mutants.mutant import Portable, mutant


@mutant(
    "mode-of-its-own",
    "EXACT-MODES-1",
    "The kernel of one instruction set contracts a product and a sum.",
)
class ModeOfItsOwn(ContractedRope):
    def __init__(self, index: int = 0) -> None:
        super().__init__(index)
        self._mode = "plain"

    @classmethod
    def modes(cls) -> tuple[str, ...]:
        return ("plain", "fused")

    def use_mode(self, mode: str) -> None:
        self._mode = mode

    def _pair(self, a: Tensor, b: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        pair = super()._pair if self._mode == "fused" else super(ContractedRope, self)._pair
        return pair(a, b, cos, sin)


@mutant(
    "head-of-the-model-in-float",
    "EXACT-BYTES-1",
    "Logits of the whole vocabulary come from another library than the layers.",
)
class HeadOfTheModel(Portable):
    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        if w.shape[0] < 256 or out_dtype != torch.float32:
            return super().linear(x, w, out_dtype)
        return x.float() @ w.tensor.float().T
