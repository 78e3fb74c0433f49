"""Latent caches whose two parts lie apart: npu_sparse_flash_attention takes no strided rows."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from glm5_hal import Backend, Cache
from glm5_hal.backends.torch_triton.fused import FusedBackend

WIDTHS = (512, 64)
"""Of the latent and the rotated part of a row, the only ones that the function takes."""


class Halves(NamedTuple):
    """The two parts, each a cache."""

    latent: Cache
    rotated: Cache


@dataclass(frozen=True)
class HalvedCache(Cache):
    """A cache of rows of 576 values in two parts; `data` is `Halves`."""

    @property
    def tensor(self) -> Tensor:
        """A copy with the parts side by side, for the portable kernels."""
        assert isinstance(self.data, Halves)
        return torch.cat([part.tensor for part in self.data], dim=-1)


class HalvedCaches(FusedBackend):
    """Keeps rows of 576 values so, whatever dtype they have; mixed with a backend."""

    def allocate_cache(self, pages: int, page_size: int, width: int, dtype: torch.dtype) -> Cache:
        if width != sum(WIDTHS):
            return super().allocate_cache(pages, page_size, width, dtype)
        latent, rotated = (
            super(HalvedCaches, self).allocate_cache(pages, page_size, part, dtype)
            for part in WIDTHS
        )
        return HalvedCache(pages, page_size, width, dtype, Halves(latent, rotated))

    def cache_write(self, cache: Cache, rows: Tensor, slots: Tensor) -> None:
        if not isinstance(cache.data, Halves):
            super().cache_write(cache, rows, slots)
            return
        for part, of_it in zip(cache.data, rows.split(WIDTHS, dim=1), strict=True):
            super().cache_write(part, of_it, slots)

    def cache_read(self, cache: Cache, slots: Tensor) -> Tensor:
        if not isinstance(cache.data, Halves):
            return super().cache_read(cache, slots)
        latent, rotated = (super(HalvedCaches, self).cache_read(part, slots) for part in cache.data)
        return torch.cat((latent, rotated), dim=-1)


_MADE: dict[type[Backend], type[Backend]] = {}


def with_halved_caches(made: type[Backend]) -> type[Backend]:
    """The class whose latent caches are so, made once."""
    if issubclass(made, HalvedCaches):
        return made
    if made not in _MADE:
        _MADE[made] = type(made.__name__, (HalvedCaches, made), {"__module__": made.__module__})
    return _MADE[made]
