"""What the machine can do: operations a second of a large product, bytes a second of a copy.

Both are measured in the run whose floors they make, by plain torch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from glm5_hal.conformance.bench.timing import measure

COPY_BYTES = 1 << 28
"""Larger than any cache."""


@dataclass(frozen=True)
class Peaks:
    """Of one machine.

    Attributes:
        flops: floating-point operations a second.
        bandwidth: bytes a second, read and written.
    """

    flops: float
    bandwidth: float

    def best(self, other: "Peaks") -> "Peaks":
        """The better of two measurements: a peak is never too high."""
        return Peaks(max(self.flops, other.flops), max(self.bandwidth, other.bandwidth))


def measured(
    dtype: torch.dtype,
    device: torch.device,
    synchronize: Callable[[], None],
    *,
    width: int,
    budget: float,
) -> Peaks:
    """Measure: a square product in `dtype`, and a copy that reads and writes `COPY_BYTES`.

    Args:
        dtype: of the product's operands.
        device: where.
        synchronize: waits for it.
        width: of the square matrices.
        budget: seconds for the samples of each.
    """
    a = torch.randn(width, width, dtype=torch.float32).to(device, dtype)
    b, product = torch.randn_like(a), torch.empty_like(a)
    flops = measure(lambda: torch.mm(a, b, out=product), synchronize, budget=budget)
    source = torch.zeros(COPY_BYTES // 4, dtype=torch.int32, device=device)
    target = torch.ones_like(source)
    copied = measure(lambda: target.copy_(source), synchronize, budget=budget)
    return Peaks(2 * width**3 / min(flops.seconds), 2 * COPY_BYTES / min(copied.seconds))
