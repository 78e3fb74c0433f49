"""NVIDIA GPUs: the portable Triton kernels, on torch's own CUDA device."""

import torch

from glm5_hal.backends.torch_triton.device import TorchDeviceBackend


class CudaBackend(TorchDeviceBackend):
    """Everything is Triton: no product goes to cuBLAS, whose choice of kernel follows the number
    of rows, as long as no run on a device has shown for which calls it does not.
    """

    name = "cuda"
    _package = __package__

    @classmethod
    def versions(cls) -> dict[str, str]:
        major, minor = torch.cuda.get_device_capability(0)
        return {
            **super().versions(),
            "cuda": str(torch.version.cuda),
            "capability": f"{major}.{minor}",
            "driver": _driver(),
        }


def _driver() -> str:
    """The newest CUDA that the driver knows, as in 12080; torch offers no public name for it."""
    asked = getattr(torch._C, "_cuda_getDriverVersion", None)
    return str(asked()) if asked is not None else "unknown"
