"""Weights as the graphs multiply by them, made without a runtime."""

from __future__ import annotations

import torch
from torch import Tensor

from glm5_hal.exact import check_length, digits_of, fixed
from glm5_hal.kernels.onnx.signature import Digits, Wide
from glm5_hal.levels import Numerics


def prepared(tensor: Tensor, numerics: Numerics) -> Digits | Wide:
    """A weight [..., N, K] as a profile's graphs take it; the bytes of `weight_graph`.

    Raises:
        ContractError: rows longer than the exact profile sums.
    """
    if numerics is Numerics.FAST:
        return Wide(tensor.float().mT.contiguous())
    check_length(tensor.shape[-1])
    rows = fixed(tensor, digits_of(tensor.dtype))
    rest, parts = rows.integers, []
    for _ in range(rows.digits - 1):
        upper = torch.floor((rest + 128) / 256)
        parts.append((rest - 256 * upper).to(torch.int8))
        rest = upper
    parts.append(rest.to(torch.int8))
    return Digits(torch.stack(parts).mT.contiguous(), rows.exponent, rows.finite)
