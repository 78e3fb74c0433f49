"""Cambricon's MLUs."""

from glm5_hal.backends.cambricon.fused import FUSED
from glm5_hal.backends.torch_triton.fused import FusedBackend, variable


class CambriconBackend(FusedBackend):
    """The portable kernels on the vendor's torch device; backend.yaml says the rest."""

    name = "cambricon"
    variables = (variable(name),)
    _package = __package__
    _fused = FUSED
