"""Kunlunxin's XPUs, whose torch calls them cuda."""

from glm5_hal.backends.torch_triton.device import TorchDeviceBackend


class KunlunBackend(TorchDeviceBackend):
    """The portable kernels on the vendor's torch device; backend.yaml says the rest."""

    name = "kunlun"
    _package = __package__
