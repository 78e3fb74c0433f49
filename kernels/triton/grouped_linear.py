"""One linear an expert over rows in expert order: no count is read back to the host."""

from torch import Tensor

from glm5_hal.exact import ACTIVATION_DIGITS
from glm5_hal.kernels.triton import products
from glm5_hal.kernels.triton.fixing import Digits, cut
from glm5_hal.kernels.triton.target import Target


def exact(x: Tensor, w: Digits, offsets: Tensor, target: Target) -> Tensor:
    """Rows x [P, K] with w of E * N rows of K: [P, N]."""
    groups = offsets.shape[0] - 1
    out = x.new_empty(x.shape[0], w.planes.shape[1] // groups)
    rows = cut(x, target, ACTIVATION_DIGITS)
    return products.exact(rows, w, out, target, groups=groups, offsets=offsets)


def fast(x: Tensor, w: Tensor, offsets: Tensor, target: Target) -> Tensor:
    """Rows x [P, K] with w [E, N, K]: [P, N]."""
    out = x.new_empty(x.shape[0], w.shape[1])
    groups = offsets.shape[0] - 1
    return products.fast(x.contiguous(), w, out, target, groups=groups, offsets=offsets)
