"""Which class answers in each profile on this machine."""

from glm5_hal import Backend
from glm5_hal.backends.cpu.portable import CpuPortable


def exact_backend() -> type[Backend]:
    """The compiled kernels where they were built, else plain torch."""
    try:
        from glm5_hal.backends.cpu.compiled import CpuCompiled
    except ImportError:
        return CpuPortable
    return CpuCompiled


def fast_backend(plain: type[Backend]) -> type[Backend]:
    """The compiled kernels where they were built, else `plain` torch."""
    try:
        from glm5_hal.backends.cpu.fast import CpuFast
    except ImportError:
        return plain
    return CpuFast
