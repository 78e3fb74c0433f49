"""The base of backends that run Triton kernels on a torch device.

A chip's backend says where its tensors lie, whether it is there, and what its `Target` is. Its
classes for the two profiles are made by mixing it with `exact.ExactOps` and `fast.FastOps`, whose
modules import triton and are therefore imported late.
"""

import importlib.util
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from glm5_hal import Backend, Cache, Capabilities, Level, Numerics, Weight, WeightRole
from glm5_hal.kernels.triton.target import Target

INSTALL = 'pip install "glm5-hal[triton]"'

CLAIMS = MappingProxyType(
    {
        Numerics.FAST: frozenset(
            {Level.RUN_TO_RUN, Level.BATCH_INVARIANT, Level.SCHEDULE_INVARIANT}
        ),
        Numerics.EXACT: frozenset(
            {
                Level.RUN_TO_RUN,
                Level.THREAD_INVARIANT,
                Level.BATCH_INVARIANT,
                Level.SCHEDULE_INVARIANT,
                Level.RANK_INVARIANT,
                Level.CROSS_BACKEND,
            }
        ),
    }
)


def missing_triton() -> str | None:
    """Why no kernel can run here, where triton is not installed."""
    found = importlib.util.find_spec("triton")
    if found is None or found.origin is None:  # a mere folder of that name has no origin
        return f"triton is not installed: {INSTALL}"
    return None


class TorchTritonBackend(Backend):
    """Device handling and what is kept; the ops come from `ExactOps` or `FastOps`.

    A subclass gives `name`, `is_available`, `device`, `_targets` and, for streams,
    `synchronize`.
    """

    name = "torch-triton"
    capabilities = Capabilities(
        dtypes=frozenset({torch.float32, torch.bfloat16}),
        profiles=frozenset({Numerics.FAST, Numerics.EXACT}),
        claims=CLAIMS,
        unsupported=MappingProxyType({"mla_expanded": "attention runs on latent rows as they lie"}),
    )

    _numerics: ClassVar[Numerics] = Numerics.FAST

    def __init__(self, index: int = 0) -> None:
        super().__init__(index)
        self._target = next(iter(self._targets().values()))

    @classmethod
    def _targets(cls) -> dict[str, Target]:
        """The target by mode, the one to use first: tables of tiles, all equal in the exact
        profile.
        """
        raise NotImplementedError(f"{cls.__name__} does not say what its target is")

    @classmethod
    def in_profile(cls, numerics: Numerics) -> type[Backend]:
        if numerics is Numerics.EXACT:
            from glm5_hal.backends.torch_triton.exact import ExactOps

            return _mixed(cls, ExactOps)
        from glm5_hal.backends.torch_triton.fast import FastOps

        return _mixed(cls, FastOps)

    @classmethod
    def modes(cls) -> tuple[str, ...]:
        # in the fast profile a tile may change a bit, so the plan knows one table only
        return tuple(cls._targets()) if cls._numerics is Numerics.EXACT else ()

    def use_mode(self, mode: str) -> None:
        self._target = self._targets()[mode]

    @classmethod
    def versions(cls) -> dict[str, str]:
        from importlib.metadata import version

        target = next(iter(cls._targets().values()))
        return {
            "torch": torch.__version__,
            "triton": version("triton"),
            "tiles": f"{target.name} {target.hash[:12]}",
        }

    def prepare_weight(self, role: WeightRole, tensor: Tensor) -> Weight:
        kept = self.to_device(tensor.contiguous())
        return Weight(role, tuple(kept.shape), kept.dtype, kept)

    def allocate_cache(self, pages: int, page_size: int, width: int, dtype: torch.dtype) -> Cache:
        rows = torch.zeros(pages * page_size, width, dtype=dtype, device=self.device)
        return Cache(pages, page_size, width, dtype, rows)


_MADE: dict[tuple[type[Backend], type], type[Backend]] = {}


def _mixed(cls: type[TorchTritonBackend], ops: type) -> type[Backend]:
    """The class that has a profile's ops, made once."""
    if issubclass(cls, ops):
        return cls
    key = (cls, ops)
    if key not in _MADE:
        _MADE[key] = type(
            # of the chip's module: what lies beside that, such as waivers.yaml, is the chip's
            f"{cls.__name__}{ops.__name__}",
            (ops, cls),
            {"__module__": cls.__module__},
        )
    return _MADE[key]
