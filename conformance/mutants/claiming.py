"""Capabilities that do not say what the backend does."""

from dataclasses import replace
from types import MappingProxyType

from torch import Tensor

from glm5_hal import Cache, PagedContext, Unsupported, Weight
from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.conformance.mutants.mutant import mutant


@mutant(
    "missing-not-declared",
    "MLA-EXPANDED-1",
    "An optional op is not there, and the capabilities do not say so.",
)
class MissingNotDeclared(CpuBackend):
    def mla_expanded(
        self,
        q_nope: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        w_uk: Weight,
        w_uv: Weight,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        raise Unsupported("mla_expanded", "no kernel yet")


@mutant(
    "declared-but-there",
    "MLA-EXPANDED-1",
    "An op is declared unsupported so that its cases are left out; it runs all the same.",
)
class DeclaredButThere(CpuBackend):
    capabilities = replace(
        CpuBackend.capabilities, unsupported=MappingProxyType({"mla_expanded": "no kernel yet"})
    )
