"""Huawei's Ascend NPUs."""

import functools

from glm5_hal import Backend, Numerics
from glm5_hal.backends.ascend.fused import FUSED, VARIABLE
from glm5_hal.backends.ascend.halved_caches import with_halved_caches
from glm5_hal.backends.ascend.records import table
from glm5_hal.backends.torch_triton.fused import Fused, FusedBackend, UnfitError
from glm5_hal.env import read


class AscendBackend(FusedBackend):
    """The portable kernels on the vendor's torch device, and fused functions of torch_npu.

    fused.yaml says which function may serve which op; backend.yaml says the rest.
    """

    name = "ascend"
    variables = (VARIABLE,)
    _package = __package__
    _fused = FUSED

    @classmethod
    def in_profile(cls, numerics: Numerics) -> type[Backend]:
        made = super().in_profile(numerics)
        assert issubclass(made, FusedBackend)
        if any(fused.op == "latent_attention" for fused in made._taken):
            return with_halved_caches(made)
        return made

    @classmethod
    def _asked(cls) -> tuple[Fused, ...]:
        asked = super()._asked()
        # what nobody has asked for need not be there: a simulated torch_npu has none of it
        return asked if read(VARIABLE) else tuple(filter(_there, asked))

    @functools.cached_property
    def _generation(self) -> str:
        """The generation of this chip, as the limits of fused functions name it."""
        return table().generation(self._namespace().get_device_name(self.index))


def _there(fused: Fused) -> bool:
    """Whether this torch_npu has the function."""
    try:
        fused.load()
    except UnfitError:
        return False
    return True
