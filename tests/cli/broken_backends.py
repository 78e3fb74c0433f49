"""Backends that cannot run, each for another reason."""

import torch

from glm5_hal import Backend, Capabilities, Numerics

CAPABILITIES = Capabilities(dtypes=frozenset({torch.float32}), profiles=frozenset({Numerics.FAST}))


class Absent(Backend):
    """Its device is not there."""

    name = "absent"
    capabilities = CAPABILITIES

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        return False, "no device file"


class Rude(Backend):
    """Raises where it should answer."""

    name = "rude"
    capabilities = CAPABILITIES

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        raise RuntimeError("driver\nsays no")
