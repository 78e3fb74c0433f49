"""GLM-5 hardware abstraction layer: one model, one narrow op contract, any accelerator.

`open_runtime()` chooses a backend (argument or ``GLM5_HAL_BACKEND``); inside ``with runtime:`` the
functions of `glm5_hal.ops` go to it. Names are imported when first used, so that a command that
needs no tensor does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {
    "backend": ("Backend", "Capabilities"),
    "contract": ("CONTRACT_VERSION",),
    "errors": (
        "BackendDefinitionError",
        "BackendUnavailable",
        "ContractError",
        "HalError",
        "SelectionError",
        "UnknownBackend",
        "Unsupported",
    ),
    "handles": ("Cache", "PagedContext", "Weight", "WeightRole"),
    "levels": ("Level", "Numerics"),
    "plan": ("Plan",),
    "runtime": ("Runtime", "open_runtime"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
