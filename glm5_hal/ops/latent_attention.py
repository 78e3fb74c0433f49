"""Attention over latent cache rows (MLA in absorbed form), dense or over selected rows."""

from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import ACT, I32, Array, Kind, op
from glm5_hal.handles import Cache, PagedContext


@op(
    Kind.PRIMITIVE,
    requirements={
        "ATTENTION-1": "Score of row s = scale * (q_latent[t, h] . c_s + q_rope[t, h] . r_s) for "
        "the cache row (c_s | r_s); result = softmax over the visible rows, times c_s; scores and "
        "sums in float32 or wider, rounded once. Only the weights may be rounded to the activation "
        "dtype before they multiply the rows.",
        "ATTENTION-2": "Without indices token t sees rows [0, lengths[t]) of its own sequence and "
        "nothing else: not its neighbours' rows, not stale rows behind the length.",
        "ATTENTION-3": "With indices token t sees exactly the rows named in indices[t]; entries "
        "after the first -1 are ignored; a row's scores are never read elsewhere.",
        "ATTENTION-4": "indices naming all visible rows in order give the bytes of no indices.",
        "ATTENTION-5": "Token t depends on its own query, rows and length alone: not on T, on its "
        "place in the batch, on which physical pages hold the rows, or on max_length.",
        "ATTENTION-6": "NaN or Inf in a visible row reaches the tokens that see it and no other.",
    },
)
def latent_attention(
    q_latent: Annotated[Tensor, Array("T H C", ACT)],
    q_rope: Annotated[Tensor, Array("T H R", ACT)],
    cache: Annotated[Cache, Array("slots C+R", ACT)],
    context: PagedContext,
    scale: float,
    indices: Annotated[Tensor, Array("T k", I32)] | None = None,
) -> Annotated[Tensor, Array("T H C", ACT)]:
    """Weighted sums of latent rows, [T, H, C].

    The cache holds rows of C + R values: the normed latent, then the rotated key part shared by
    all heads. `indices` [T, k] are ascending positions in the token's sequence, padded with -1.
    Source: DeepSeek-V2 (2405.04434) section 2.1, absorbed; GLM-5 (2602.15763) section 2.
    """
    latent = q_latent.shape[-1]
    query = torch.cat((q_latent, q_rope), dim=-1).double()
    out = torch.empty_like(q_latent)
    for token in range(query.shape[0]):
        slots = context.slots(token, cache.page_size, indices)
        rows = cache.tensor[slots].double()  # [S, C + R]
        weights = torch.softmax(query[token] @ rows.T * scale, dim=-1)  # [H, S]
        out[token] = (weights @ rows[:, :latent]).to(out.dtype)
    return out
