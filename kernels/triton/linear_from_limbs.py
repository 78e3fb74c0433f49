"""The end of a row-parallel linear: summed limbs become values."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm5_hal.kernels.triton.fixing import Digits, valued
from glm5_hal.kernels.triton.floats import narrow
from glm5_hal.kernels.triton.target import Target, tiles_of


@triton.jit
def values_kernel(
    first,
    limbs,
    x_exponents,
    w_exponents,
    out,
    total,
    width,
    digits: tl.constexpr,
    block: tl.constexpr,
):
    """Values [total] of limbs [total, 3], in rows of `width`."""
    place = (tl.program_id(0) + first) * block + tl.arange(0, block)
    mask = place < total
    at = limbs + 3 * place.to(tl.int64)
    low = tl.load(at, mask=mask, other=0)
    middle = tl.load(at + 1, mask=mask, other=0) + (low >> 24)
    top = tl.load(at + 2, mask=mask, other=0) + (middle >> 24)
    high = (top << 18) | ((middle & 0xFFFFFF) >> 6)
    low = (low & 0xFFFFFF) | ((middle & 63) << 24)
    x_exponent = tl.load(x_exponents + place // width, mask=mask, other=0)
    w_exponent = tl.load(w_exponents + place % width, mask=mask, other=0)
    value = valued(high, low, x_exponent, w_exponent, digits)
    tl.store(out + place, narrow(value, out.dtype.element_ty), mask=mask)


def exact(
    limbs: Tensor, exponents: Tensor, w: Digits, out_dtype: torch.dtype, target: Target
) -> Tensor:
    """Values [T, N] of summed limbs [T, N, 3]."""
    rows, width, _ = limbs.shape
    out = torch.empty(rows, width, dtype=out_dtype, device=limbs.device)
    programs = tiles_of(rows * width, target.tile("values").sizes["block"])
    arguments = (limbs.contiguous(), exponents, w.exponents, out, rows * width, width)
    target.launch(values_kernel, programs, *arguments, tile="values", digits=w.digits)
    return out
