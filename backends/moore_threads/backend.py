"""Moore Threads' GPUs."""

from glm5_hal.backends.torch_triton.device import TorchDeviceBackend


class MooreThreadsBackend(TorchDeviceBackend):
    """The portable kernels on the vendor's torch device; backend.yaml says the rest."""

    name = "moore_threads"
    _package = __package__
