"""Bounds of rounding errors for tests of the CPU backend against float64 references.

Bounds are derived, not tuned. With u = 2^-24, the unit roundoff of float32, every float32
operation is off by u relative; a sum of K products in any order, fused or not, is off by at most
K u / (1 - K u) times the sum of the products' magnitudes. The result is then rounded once.
"""

import torch
from torch import Tensor

from glm5_hal import Weight

U = 2.0**-24
ROUNDOFF = {torch.float32: U, torch.bfloat16: 2.0**-8}
TINY = 2.0**-126
"""Below it a library may flush to zero."""


def gamma(terms: int) -> float:
    """Relative error of a float32 sum of products."""
    return terms * U / (1 - terms * U)


def rounded(error: Tensor | float, exact: Tensor, dtype: torch.dtype) -> Tensor:
    """The bound `error` on a float32 result, with its rounding to `dtype` added."""
    return error + ROUNDOFF[dtype] * (exact.abs() + error) + TINY


def assert_within(found: Tensor, exact: Tensor, bound: Tensor) -> None:
    """No element is further from the exact value than its bound."""
    assert exact.dtype == torch.float64
    excess = ((found.double() - exact).abs() / bound).nan_to_num(torch.inf)
    assert found.shape == exact.shape
    assert not excess.numel() or float(excess.max()) <= 1, f"{float(excess.max())} times the bound"


def absolute(weight: Weight) -> Tensor:
    """Magnitudes of a weight, float64."""
    return weight.tensor.double().abs()
