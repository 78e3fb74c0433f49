"""MetaX's GPUs, whose torch calls them cuda."""

from glm5_hal.backends.metax.fused import FUSED
from glm5_hal.backends.torch_triton.fused import FusedBackend, variable


class MetaxBackend(FusedBackend):
    """The portable kernels on the vendor's torch device; backend.yaml says the rest."""

    name = "metax"
    variables = (variable(name),)
    _package = __package__
    _fused = FUSED
