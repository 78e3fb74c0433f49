"""Attention over latent cache rows (MLA in absorbed form), dense or over selected rows."""

from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import ACT, I32, Array, Kind, op
from glm5_hal.exact import (
    ACTIVATION_DIGITS,
    Fixed,
    contract,
    digits_of,
    divide,
    exact_sums,
    exp2_fraction,
    fixed,
    power,
    write,
)
from glm5_hal.handles import Cache, PagedContext

LOG2_E = float.fromhex("0x1.71547652b82fep+0")
CLAMP = 2.0**20
"""Scores beyond it are cut in the exact profile: their powers of two differ by more than that."""


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


@latent_attention.exact(
    requirements={
        "ATTENTION-EXACT-1": "q_latent and c_s, q_rope and r_s are four vectors with exponents of "
        "their own: queries fixed with 3 digits, cached parts with 2 (bfloat16) or 3 (float32). "
        "s = (q_latent . c_s + q_rope . r_s) * f: products as in LINEAR-EXACT-1, one float32 "
        "addition, one multiplication; s is clamped to [-2^20, 2^20]. f is the float64 product of "
        "scale and 0x1.71547652b82fep+0, rounded to float32. A sum of the two products that is "
        "not finite makes the result NaN for that token and head.",
        "ATTENTION-EXACT-2": "a = round(s), p = exp2(s - a) as in EXACT-EXP2-1. With e_s the "
        "exponent of c_s: M = max a, G = max (a + e_s) over the visible rows. "
        "P_s = round(p * 2^(a - M + 23)) and W_s = round(p * 2^(a + e_s - G + 21)) are integers.",
        "ATTENTION-EXACT-3": "N = sum of W_s * C_s over the visible rows with C_s the integers of "
        "c_s, and L = sum of P_s: exact, so in any order and any split. The result is "
        "write((N * (1 / L)) * 2^(G - M + 2 - bits)), N and L rounded to float32, the reciprocal "
        "and the product rounded, bits = 14 (bfloat16) or 22 (float32).",
    }
)
def fixed_point(
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Cache,
    context: PagedContext,
    scale: float,
    indices: Tensor | None = None,
) -> Tensor:
    """Two passes: integer maxima, then integer sums. Nothing is rescaled on the way."""
    latent = q_latent.shape[-1]
    digits = digits_of(cache.dtype)
    factor = torch.tensor(scale * LOG2_E)
    out = torch.empty_like(q_latent)
    for token in range(q_latent.shape[0]):
        rows = cache.tensor[context.slots(token, cache.page_size, indices)]
        if not rows.shape[0]:
            out[token] = 0.0
            continue
        queries = [fixed(q[token], ACTIVATION_DIGITS) for q in (q_latent, q_rope)]
        content, turned = (fixed(part, digits) for part in (rows[:, :latent], rows[:, latent:]))
        scores = contract(queries[0], content) + contract(queries[1], turned)  # [H, S]
        finite = scores.isfinite().all(-1) & content.finite.all()
        scores = torch.where(scores.isnan(), 0.0, scores * factor).clamp(-CLAMP, CLAMP)
        whole = torch.round(scores)
        part = exp2_fraction(scores - whole).double()
        whole = whole.long()
        lifted = whole + content.exponent
        top, top_lifted = whole.amax(-1, keepdim=True), lifted.amax(-1, keepdim=True)
        mass = _scaled(part, whole - top + 23).sum(-1, keepdim=True).long()
        weights = Fixed(_scaled(part, lifted - top_lifted + 21), top_lifted, finite, 3)
        columns = Fixed(content.integers.mT, content.exponent, content.finite, digits)
        sums = exact_sums(weights, columns).float()  # [H, C]
        value = sums * divide(torch.ones(()), mass.float())
        value = value.double() * power(top_lifted - top + 2 - content.bits)
        out[token] = write(torch.where(finite.unsqueeze(-1), value, torch.nan), out.dtype)
    return out


def _scaled(part: Tensor, exponent: Tensor) -> Tensor:
    """round(part * 2^exponent) for parts below 2: whole numbers in float64."""
    return torch.round(part * power(exponent.clamp(min=-2)))
