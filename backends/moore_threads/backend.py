"""Moore Threads' GPUs."""

from glm5_hal.backends.moore_threads.fused import FUSED
from glm5_hal.backends.torch_triton.fused import FusedBackend, variable


class MooreThreadsBackend(FusedBackend):
    """The portable kernels on the vendor's torch device; backend.yaml says the rest."""

    name = "moore_threads"
    variables = (variable(name),)
    _package = __package__
    _fused = FUSED
