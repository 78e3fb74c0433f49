"""Multi-head latent attention, by default in absorbed form."""

from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import ACT, FLOAT, I32, Array, Kind, op
from glm5_hal.handles import Cache, PagedContext, Weight
from glm5_hal.ops.head_linear import head_linear
from glm5_hal.ops.latent_attention import latent_attention


@op(
    Kind.COMPOSITE,
    requirements={
        "MLA-1": "With k_s = (W_UK[h]^T c_s | r_s) and v_s = W_UV[h] c_s per head: softmax over "
        "the visible rows of scale * (q . k_s), times v_s, within the bound of its parts.",
        "MLA-2": "Which rows are visible, and what a token may depend on, is as in ATTENTION-2, "
        "-3 and -5; the form chosen may not depend on T.",
    },
)
def mla(
    q_nope: Annotated[Tensor, Array("T H N", ACT)],
    q_rope: Annotated[Tensor, Array("T H R", ACT)],
    cache: Annotated[Cache, Array("slots C+R", ACT)],
    context: PagedContext,
    w_uk: Annotated[Weight, Array("H C N", FLOAT)],
    w_uv: Annotated[Weight, Array("H V C", FLOAT)],
    scale: float,
    indices: Annotated[Tensor, Array("T k", I32)] | None = None,
) -> Annotated[Tensor, Array("T H V", ACT)]:
    """Attention output per head, [T, H, V], before the output projection.

    `w_uk` is stored transposed ([H, C, N]) so that it absorbs into the query as a head_linear.
    The reference is the expanded form, the one the paper defines. Source: GLM-5 (2602.15763).
    """
    query = torch.cat((q_nope, q_rope), dim=-1).double()
    latent = w_uk.shape[1]
    out = q_nope.new_empty(*q_nope.shape[:2], w_uv.shape[1])
    for token in range(query.shape[0]):
        slots = context.slots(token, cache.page_size, indices)
        rows = cache.tensor[slots].double()
        content, position = rows[:, :latent], rows[:, latent:]
        nope = torch.einsum("sc,hcn->hsn", content, w_uk.tensor.double())
        keys = torch.cat((nope, position.expand(nope.shape[0], -1, -1)), dim=-1)  # [H, S, N + R]
        values = torch.einsum("sc,hvc->hsv", content, w_uv.tensor.double())
        weights = torch.softmax(torch.einsum("hd,hsd->hs", query[token], keys) * scale, dim=-1)
        out[token] = torch.einsum("hs,hsv->hv", weights, values).to(out.dtype)
    return out


@mla.composition
def absorbed(
    q_nope: Tensor,
    q_rope: Tensor,
    cache: Cache,
    context: PagedContext,
    w_uk: Weight,
    w_uv: Weight,
    scale: float,
    indices: Tensor | None = None,
) -> Tensor:
    """W_UK absorbed into the query: attention runs on the latent rows as they lie in the cache."""
    q_latent = head_linear(q_nope, w_uk)
    return head_linear(latent_attention(q_latent, q_rope, cache, context, scale, indices), w_uv)
