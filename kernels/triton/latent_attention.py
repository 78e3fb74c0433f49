"""Attention over latent cache rows, dense or over selected rows.

The two entry points, which cut a call to what scratch holds. Kernels of the exact profile lie in
`latent_attention_exact`, those of the fast one in `latent_attention_fast`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm5_hal.exact import ACTIVATION_DIGITS
from glm5_hal.handles import PagedContext
from glm5_hal.kernels.triton import latent_attention_exact, latent_attention_fast
from glm5_hal.kernels.triton.fixing import Digits, cut
from glm5_hal.kernels.triton.target import Target, padded, tiles_of


@triton.jit
def visible_kernel(first, indices, out, k, block: tl.constexpr):
    """How many entries of each row of indices [tokens, k] stand before its first -1."""
    token = (tl.program_id(0) + first).to(tl.int64)
    least = tl.zeros([block], tl.int32) + k
    for begin in range(0, k, block):
        place = begin + tl.arange(0, block)
        index = tl.load(indices + token * k + place, mask=place < k, other=0)
        least = tl.minimum(least, tl.where(index < 0, place, k))
    tl.store(out + token, tl.min(least, 0))


def visible_rows(context: PagedContext, indices: Tensor | None, target: Target) -> Tensor:
    """How many rows each token sees: [T] int32."""
    if indices is None:
        return context.lengths
    out = torch.empty_like(context.lengths)
    block = min(padded(indices.shape[1]), 1024)
    arguments = (indices, out, indices.shape[1])
    target.launch(visible_kernel, out.shape[0], *arguments, tile="visible", block=block)
    return out


def exact(
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Tensor,
    page_size: int,
    context: PagedContext,
    scale: float,
    indices: Tensor | None,
    target: Target,
) -> Tensor:
    """Weighted sums [T, H, C] of cached rows [slots, C + R] for queries [T, H, C] and [T, H, R]."""
    tokens, count, width = q_latent.shape
    out = torch.empty(tokens, count, width, dtype=q_latent.dtype, device=q_latent.device)
    longest = context.max_length if indices is None else indices.shape[1]
    visible = visible_rows(context, indices, target)
    latents = cut(q_latent.flatten(0, 1), target, ACTIVATION_DIGITS)
    turned = cut(q_rope.flatten(0, 1), target, ACTIVATION_DIGITS)
    some = max(1, target.scratch // (4 * count * max(longest, 1)))
    for start in range(0, tokens, some):
        stop = min(start + some, tokens)
        rows = slice(start * count, stop * count)
        latent_attention_exact.weighted_sums(
            Digits(latents.planes[:, rows], latents.exponents[rows]),
            Digits(turned.planes[:, rows], turned.exponents[rows]),
            cache,
            page_size,
            context.page_table,
            context.sequence[start:stop],
            visible[start:stop],
            scale,
            None if indices is None else indices[start:stop].contiguous(),
            longest,
            out[start:stop],
            target,
        )
    return out


def fast(
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Tensor,
    page_size: int,
    context: PagedContext,
    scale: float,
    indices: Tensor | None,
    target: Target,
) -> Tensor:
    """Weighted sums [T, H, C] of cached rows [slots, C + R] for queries [T, H, C] and [T, H, R]."""
    tokens, count, width = q_latent.shape
    q_latent, q_rope = q_latent.contiguous(), q_rope.contiguous()
    out = torch.empty_like(q_latent)
    longest = context.max_length if indices is None else indices.shape[1]
    visible = visible_rows(context, indices, target)
    spans = tiles_of(longest, target.tile("attention_spans").sizes["span"])
    some = max(1, target.scratch // (4 * count * width * max(spans, 1)))
    for start in range(0, tokens, some):
        part = slice(start, min(start + some, tokens))
        latent_attention_fast.weighted_sums(
            q_latent[part],
            q_rope[part],
            cache,
            page_size,
            context.page_table,
            context.sequence[part],
            visible[part],
            scale,
            None if indices is None else indices[part].contiguous(),
            longest,
            out[part],
            target,
        )
    return out
