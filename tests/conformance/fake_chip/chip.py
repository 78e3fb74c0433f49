"""A backend with waivers beside it, that is not registered."""

from types import MappingProxyType

import torch

from glm5_hal import Backend, Capabilities, Level, Numerics, Plan
from glm5_hal.errors import UnknownBackend
from glm5_hal.plan import make_plan


class Chip(Backend):
    """Gives no op at all."""

    name = "chip"
    capabilities = Capabilities(
        claims=MappingProxyType({Numerics.FAST: frozenset({Level.BATCH_INVARIANT})}),
        unsupported=MappingProxyType({"mla_expanded": "no such unit"}),
    )

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        return True, "simulated"

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


def resolve(backend: str | None, numerics: str | None) -> tuple[Plan, type[Backend]]:
    """As `glm5_hal.plan.resolve`, for one backend."""
    name, _, index = (backend or "chip").partition(":")
    if name != "chip":
        raise UnknownBackend(name, ["chip"])
    return make_plan(Chip, int(index or 0), Numerics(numerics or "fast")), Chip
