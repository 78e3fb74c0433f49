"""Enflame's GCUs."""

from glm5_hal.backends.torch_triton.device import TorchDeviceBackend


class EnflameBackend(TorchDeviceBackend):
    """The portable kernels on the vendor's torch device; backend.yaml says the rest."""

    name = "enflame"
    _package = __package__
