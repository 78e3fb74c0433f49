"""MetaX's GPUs, whose torch calls them cuda."""

from glm5_hal.backends.torch_triton.device import TorchDeviceBackend


class MetaxBackend(TorchDeviceBackend):
    """The portable kernels on the vendor's torch device; backend.yaml says the rest."""

    name = "metax"
    _package = __package__
