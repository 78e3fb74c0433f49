"""Huawei's Ascend NPUs."""

from glm5_hal.backends.torch_triton.device import TorchDeviceBackend


class AscendBackend(TorchDeviceBackend):
    """The portable kernels on the vendor's torch device; backend.yaml says the rest."""

    name = "ascend"
    _package = __package__
