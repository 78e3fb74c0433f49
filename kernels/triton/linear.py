"""Linear projection."""

import torch
from torch import Tensor

from glm5_hal.exact import ACTIVATION_DIGITS
from glm5_hal.kernels.triton import products
from glm5_hal.kernels.triton.fixing import Digits, cut
from glm5_hal.kernels.triton.target import Target


def exact(x: Tensor, w: Digits, out_dtype: torch.dtype, target: Target) -> Tensor:
    """Rows x [T, K] times w [N, K]: [T, N]."""
    out = torch.empty(x.shape[0], w.planes.shape[1], dtype=out_dtype, device=x.device)
    return products.exact(cut(x, target, ACTIVATION_DIGITS), w, out, target)


def fast(x: Tensor, w: Tensor, out_dtype: torch.dtype, target: Target) -> Tensor:
    """Rows x [T, K] times w [N, K]: [T, N]."""
    out = torch.empty(x.shape[0], w.shape[0], dtype=out_dtype, device=x.device)
    return products.fast(x.contiguous(), w, out, target)
