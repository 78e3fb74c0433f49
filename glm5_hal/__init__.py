"""GLM-5 hardware abstraction layer: one model, one narrow op contract, any accelerator.

`open_runtime()` chooses a backend (argument or ``GLM5_HAL_BACKEND``); inside ``with runtime:`` the
functions of `glm5_hal.ops` go to it.
"""

from glm5_hal.backend import Backend, Capabilities
from glm5_hal.contract import CONTRACT_VERSION
from glm5_hal.errors import (
    BackendDefinitionError,
    BackendUnavailable,
    ContractError,
    HalError,
    SelectionError,
    UnknownBackend,
    Unsupported,
)
from glm5_hal.handles import Cache, PagedContext, Weight, WeightRole
from glm5_hal.levels import Level, Numerics
from glm5_hal.plan import Plan
from glm5_hal.runtime import Runtime, open_runtime

__all__ = [
    "CONTRACT_VERSION",
    "Backend",
    "BackendDefinitionError",
    "BackendUnavailable",
    "Cache",
    "Capabilities",
    "ContractError",
    "HalError",
    "Level",
    "Numerics",
    "PagedContext",
    "Plan",
    "Runtime",
    "SelectionError",
    "UnknownBackend",
    "Unsupported",
    "Weight",
    "WeightRole",
    "open_runtime",
]
