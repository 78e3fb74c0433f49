"""Cambricon's MLUs."""

from glm5_hal.backends.torch_triton.device import TorchDeviceBackend


class CambriconBackend(TorchDeviceBackend):
    """The portable kernels on the vendor's torch device; backend.yaml says the rest."""

    name = "cambricon"
    _package = __package__
