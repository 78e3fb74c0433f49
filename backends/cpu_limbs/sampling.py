"""Drawing a token: weights of 25 bits, compared in products of up to 67."""

import numpy as np
import torch
from torch import Tensor

from glm5_hal.backends.cpu_limbs import floats, integers
from glm5_hal.backends.cpu_limbs.arrays import Float, Int, floats_of
from glm5_hal.ops.sample import DRAW_BITS

_COLDEST = np.float32(2.0**-50)


def sample(logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> Tensor:
    """Token ids [T] int32."""
    heats, limits = floats_of(temperature), floats_of(top_p)
    ids = [
        _draw(row, heats[t : t + 1], limits[t : t + 1], draw)
        if _COLDEST <= heats[t] < np.inf and _drawable(row)
        else int(np.argmax(integers.order_keys(row)))
        for t, (row, draw) in enumerate(zip(floats_of(logits), draws.tolist(), strict=True))
    ]
    return torch.tensor(ids, dtype=torch.int32)


def _drawable(row: Float) -> bool:
    """Whether a row has a largest finite logit: no NaN, no +Inf, not -Inf alone."""
    return bool((row < np.inf).all() and (row > -np.inf).any())


def _draw(row: Float, temperature: Float, top_p: Float, draw: int) -> int:
    """The id [V] that a draw picks."""
    share = floats.exp(floats.divide(row - row.max(), temperature))
    weights = floats.to_integer(share, DRAW_BITS)
    order = np.argsort(-weights, kind="stable")
    weights = weights[order]
    mass = integers.running_sums(weights)
    kept = _kept(mass, weights, top_p)
    return int(order[_place(mass, kept, draw)])


def _kept(mass: Int, weights: Int, top_p: Float) -> int:
    """How many ids: those before which less than top_p of all has accumulated, at least one."""
    limit = int(floats.to_integer(np.clip(top_p, np.float32(0), np.float32(1)), DRAW_BITS)[0])
    before = mass.copy()
    before[0] -= weights
    wanted = integers.times(mass[:, -1:], limit)
    reached = integers.times(integers.carried(before), 1 << DRAW_BITS)
    return max(int(np.count_nonzero(integers.less(reached, wanted))), 1)


def _place(mass: Int, kept: int, draw: int) -> int:
    """The first place whose mass exceeds (2 draw + 1) / 2^25 of the kept mass."""
    target = integers.times(mass[:, kept - 1 : kept], 2 * draw + 1)
    reached = integers.times(mass, 1 << (DRAW_BITS + 1))
    return int(np.count_nonzero(~integers.less(target, reached)))
