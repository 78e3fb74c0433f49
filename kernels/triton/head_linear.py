"""One small projection a head: heads are the groups of a product."""

from torch import Tensor

from glm5_hal.exact import ACTIVATION_DIGITS
from glm5_hal.kernels.triton import products
from glm5_hal.kernels.triton.fixing import Digits, cut
from glm5_hal.kernels.triton.target import Target


def exact(x: Tensor, w: Digits, target: Target) -> Tensor:
    """x [T, H, K] with w of H * N rows of K: [T, H, N]."""
    heads = x.shape[1]
    out = x.new_empty(x.shape[0], heads, w.planes.shape[1] // heads)
    rows = cut(x.flatten(0, 1), target, ACTIVATION_DIGITS)
    return products.exact(rows, w, out, target, groups=heads, step=heads, lead=1)


def fast(x: Tensor, w: Tensor, target: Target) -> Tensor:
    """x [T, H, K] with w [H, N, K]: [T, H, N]."""
    heads = x.shape[1]
    out = x.new_empty(x.shape[0], heads, w.shape[1])
    rows = x.flatten(0, 1).contiguous()
    return products.fast(rows, w, out, target, groups=heads, step=heads, lead=1)
