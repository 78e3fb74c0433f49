"""What both profiles' classes with compiled kernels have in common."""

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from glm5_hal import Weight
from glm5_hal.backends.cpu import moe
from glm5_hal.backends.cpu.host import Host

if TYPE_CHECKING:
    from glm5_hal.kernels.cpu import Exact
    from glm5_hal.kernels.cpu.fast import Fast


class WithKernels(Host):
    """Mixed in before the class in plain torch; ops whose calls are the same in both profiles."""

    _made_by: ClassVar[type["Exact"] | type["Fast"]]
    """Makes the kernels of a mode."""
    _modes: ClassVar[tuple[str, ...]]
    """Instruction sets that can be used here, best first."""
    _compiler: ClassVar[str]

    def __init__(self, index: int = 0) -> None:
        super().__init__(index)
        self._kernels = self._made_by(self._modes[0])

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        return True, f"threads: {torch.get_num_threads()}, {cls._modes[0]}"

    @classmethod
    def advice(cls) -> tuple[str, ...]:
        return ()

    @classmethod
    def modes(cls) -> tuple[str, ...]:
        return cls._modes

    def use_mode(self, mode: str) -> None:
        self._kernels = self._made_by(mode)

    @classmethod
    def versions(cls) -> dict[str, str]:
        return {**super().versions(), "kernels": f"compiled by {cls._compiler}"}

    def rms_norm(
        self, x: Tensor, w: Weight, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return self._kernels.rms_norm(x, w.tensor, eps, residual)

    def layer_norm(self, x: Tensor, w: Weight, b: Weight, eps: float) -> Tensor:
        return self._kernels.layer_norm(x, w.tensor, b.tensor, eps)

    def swiglu(self, gate_up: Tensor) -> Tensor:
        return self._kernels.swiglu(gate_up)

    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        return self._kernels.topk(scores, lengths, k)

    def moe_route(
        self,
        logits: Tensor,
        bias: Weight,
        k: int,
        n_group: int,
        topk_group: int,
        normalize: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        groups = (n_group, topk_group)
        return self._kernels.route(logits, bias.tensor, k, groups, normalize, scale)

    def moe_combine(
        self, rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None = None
    ) -> Tensor:
        places = moe.places(slots).view(weights.shape)
        return self._kernels.combine(rows, places, weights, shared)
