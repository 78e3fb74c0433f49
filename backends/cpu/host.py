"""What every class of the CPU backend is: plain tensors on the host."""

import torch
from torch import Tensor

from glm5_hal import Backend, Capabilities, Numerics, Weight, WeightRole

DTYPES = frozenset({torch.float32, torch.bfloat16})
PROFILES = frozenset({Numerics.FAST, Numerics.EXACT})


class Host(Backend):
    """Weights as they come."""

    name = "cpu"
    capabilities = Capabilities(dtypes=DTYPES, profiles=PROFILES)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def prepare_weight(self, role: WeightRole, tensor: Tensor) -> Weight:
        kept = tensor.contiguous()
        return Weight(role, tuple(kept.shape), kept.dtype, kept)
