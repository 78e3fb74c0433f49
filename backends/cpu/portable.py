"""The exact profile in plain torch: the definitions themselves, for machines without a compiler."""

from types import MappingProxyType

import torch

from glm5_hal import Capabilities, Level, Numerics
from glm5_hal.backends.cpu.host import DTYPES, PROFILES, Host
from glm5_hal.definitions import defined

CLAIMS = frozenset(Level) - {Level.TRAIN_ROLLOUT, Level.DEVICE_TO_DEVICE}


def without_kernels(profile: Numerics) -> tuple[str, ...]:
    """What makes a profile faster that plain torch answers in."""
    return (
        f"the {profile.value} profile runs in plain torch, slowly: its kernels were not compiled. "
        "Install a C++17 compiler (g++), then this package again.",
    )


class _Plain(Host):
    """What is no op."""

    capabilities = Capabilities(
        dtypes=DTYPES,
        profiles=PROFILES,
        claims=MappingProxyType({Numerics.EXACT: CLAIMS}),
        unsupported=MappingProxyType(
            {"mla_expanded": "the exact profile is defined on the absorbed form"}
        ),
    )

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        return True, f"threads: {torch.get_num_threads()}, plain torch"

    @classmethod
    def advice(cls) -> tuple[str, ...]:
        return without_kernels(Numerics.EXACT)

    @classmethod
    def versions(cls) -> dict[str, str]:
        return {"torch": torch.__version__, "kernels": "none"}


CpuPortable = defined(_Plain, "CpuPortable", Numerics.EXACT)
"""Every op by its definition."""
