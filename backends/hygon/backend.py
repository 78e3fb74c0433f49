"""Hygon's DCUs, whose torch calls them cuda and reports HIP, as AMD's does."""

from glm5_hal.backends.hygon.fused import FUSED, architecture
from glm5_hal.backends.torch_triton.fused import FusedBackend, variable

ARCHITECTURES = ("gfx926", "gfx928", "gfx92a", "gfx936", "gfx938", "gfx946")


class HygonBackend(FusedBackend):
    """The portable kernels on the vendor's torch device; backend.yaml says the rest."""

    name = "hygon"
    variables = (variable(name),)
    _package = __package__
    _fused = FUSED

    @classmethod
    def _obstacle(cls) -> str | None:
        reason = super()._obstacle()
        if reason is not None:
            return reason
        cls._set_variables()  # asking for its properties is the first use of the device
        found = architecture(cls)
        if found in ARCHITECTURES:
            return None
        return f"device 0 is {found}, which is none of {', '.join(ARCHITECTURES)}: another vendor's"
