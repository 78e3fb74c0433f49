"""Scores of the DSA lightning indexer."""

from typing import Annotated

import torch
from torch import Tensor

from glm5_hal.contract import ACT, F32, Array, Kind, op
from glm5_hal.exact import ACTIVATION_DIGITS, contract, digits_of, fixed, read, write
from glm5_hal.handles import Cache, PagedContext


@op(
    Kind.PRIMITIVE,
    requirements={
        "INDEX-SCORES-1": "I[t, s] = sum over heads h of (w[t, h] * scale) * "
        "relu(q[t, h] . k_s), in float32 or wider, result float32.",
        "INDEX-SCORES-2": "Columns s >= lengths[t] are -Inf; S = max_length.",
        "INDEX-SCORES-3": "I[t, s] depends on row t of q and w and on the key of row s alone.",
        "INDEX-SCORES-4": "A key whose products with all heads are <= 0 scores exactly +0.0.",
    },
)
def index_scores(
    q: Annotated[Tensor, Array("T H D", ACT)],
    w: Annotated[Tensor, Array("T H", F32)],
    keys: Annotated[Cache, Array("slots D", ACT)],
    context: PagedContext,
    scale: float,
) -> Annotated[Tensor, Array("T max_length", F32)]:
    """Index scores [T, max_length] of each query token against the cached index keys.

    `scale` is heads^-0.5 * D^-0.5. Source: DeepSeek-V3.2 report, equation 1; GLM-5 section 2.
    """
    out = torch.full((q.shape[0], context.max_length), -torch.inf, device=q.device)
    for token in range(q.shape[0]):
        rows = keys.tensor[context.slots(token, keys.page_size)].double()  # [S, D]
        dots = torch.relu(q[token].double() @ rows.T)  # [H, S]
        # + 0.0 turns a sum of negative zeros into +0.0
        out[token, : rows.shape[0]] = ((w[token].double() * scale) @ dots + 0.0).float()
    return out


@index_scores.exact(
    requirements={
        "INDEX-SCORES-EXACT-1": "d[h, s] = the product of q[t, h], fixed with 3 digits, and the "
        "key of row s, fixed with 2 (bfloat16) or 3 (float32), as in LINEAR-EXACT-1.",
        "INDEX-SCORES-EXACT-2": "acc = +0; for heads h = 0, 1, ... acc = acc + read(relu(d[h, s])) "
        "* v[h] with v[h] = read(read(w[t, h]) * scale), each operation rounded to float32; "
        "I[t, s] = write(acc).",
    }
)
def fixed_point(q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float) -> Tensor:
    """Exact sums over the width, then a chain of float32 operations in head order."""
    out = torch.full((q.shape[0], context.max_length), -torch.inf, device=q.device)
    weight = read(read(w) * torch.tensor(scale))
    for token in range(q.shape[0]):
        rows = keys.tensor[context.slots(token, keys.page_size)]
        query = fixed(q[token], ACTIVATION_DIGITS)
        dots = read(torch.relu(contract(query, fixed(rows, digits_of(rows.dtype)))))  # [H, S]
        total = torch.zeros_like(dots[0])
        for head in range(q.shape[1]):
            total = total + dots[head] * weight[token, head]
        out[token, : rows.shape[0]] = write(total, torch.float32)
    return out
