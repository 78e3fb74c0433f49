"""Kunlunxin's XPUs, whose torch calls them cuda."""

from glm5_hal.backends.kunlun.fused import FUSED
from glm5_hal.backends.torch_triton.fused import FusedBackend, variable


class KunlunBackend(FusedBackend):
    """The portable kernels on the vendor's torch device; backend.yaml says the rest."""

    name = "kunlun"
    variables = (variable(name),)
    _package = __package__
    _fused = FUSED
