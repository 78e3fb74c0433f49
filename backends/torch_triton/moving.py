"""Ops that are the same in every profile: they move or order values."""

from torch import Tensor

from glm5_hal import Cache, Weight
from glm5_hal.backends.torch_triton.backend import TorchTritonBackend
from glm5_hal.kernels.triton import (
    cache_read,
    cache_write,
    embedding,
    moe_dispatch,
    sample,
    topk,
)


class MovingOps(TorchTritonBackend):
    """Looking up, storing, choosing."""

    def embedding(self, ids: Tensor, table: Weight) -> Tensor:
        return embedding.run(ids, table.tensor, self._target)

    def cache_write(self, cache: Cache, rows: Tensor, slots: Tensor) -> None:
        cache_write.run(cache.tensor, rows, slots, self._target)

    def cache_read(self, cache: Cache, slots: Tensor) -> Tensor:
        return cache_read.run(cache.tensor, slots, self._target)

    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        return topk.run(scores, lengths, k, self._target)

    def moe_dispatch(self, x: Tensor, ids: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
        return moe_dispatch.run(x, ids, experts, self._target)

    def sample(self, logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> Tensor:
        return sample.run(logits, temperature, top_p, draws, self._target)
