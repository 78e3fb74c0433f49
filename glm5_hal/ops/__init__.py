"""The op contract, version 1: everything a GLM-5 forward pass and Muon need.

The model calls these names and nothing else; each goes to the active runtime's backend. Tokens
are packed [T, ...] with page tables and lengths, without a batch dimension, so that independence
of the batch is a property of the interface.
"""

from glm5_hal.ops.cache_read import cache_read
from glm5_hal.ops.cache_write import cache_write
from glm5_hal.ops.dsa_select import dsa_select
from glm5_hal.ops.embedding import embedding
from glm5_hal.ops.grouped_linear import grouped_linear
from glm5_hal.ops.head_linear import head_linear
from glm5_hal.ops.index_scores import index_scores
from glm5_hal.ops.latent_attention import latent_attention
from glm5_hal.ops.layer_norm import layer_norm
from glm5_hal.ops.linear import linear
from glm5_hal.ops.linear_from_limbs import linear_from_limbs
from glm5_hal.ops.linear_limbs import linear_limbs
from glm5_hal.ops.mla import mla
from glm5_hal.ops.mla_expanded import mla_expanded
from glm5_hal.ops.moe_combine import moe_combine
from glm5_hal.ops.moe_dispatch import moe_dispatch
from glm5_hal.ops.moe_experts import moe_experts
from glm5_hal.ops.moe_route import moe_route
from glm5_hal.ops.muon_orthogonalize import muon_orthogonalize
from glm5_hal.ops.rms_norm import rms_norm
from glm5_hal.ops.rope import rope
from glm5_hal.ops.row_exponents import row_exponents
from glm5_hal.ops.sample import sample
from glm5_hal.ops.swiglu import swiglu
from glm5_hal.ops.topk import topk

__all__ = [
    "cache_read",
    "cache_write",
    "dsa_select",
    "embedding",
    "grouped_linear",
    "head_linear",
    "index_scores",
    "latent_attention",
    "layer_norm",
    "linear",
    "linear_from_limbs",
    "linear_limbs",
    "mla",
    "mla_expanded",
    "moe_combine",
    "moe_dispatch",
    "moe_experts",
    "moe_route",
    "muon_orthogonalize",
    "rms_norm",
    "rope",
    "row_exponents",
    "sample",
    "swiglu",
    "topk",
]
