"""Small inputs of the shapes that vendors' functions take, with everything that can go wrong."""

import torch
from torch import Tensor

from glm5_hal import Cache, PagedContext, Weight, WeightRole


def context(lengths: list[list[int]], page_size: int, spare: int = 0) -> PagedContext:
    """Sequences with these lengths of their tokens, on shuffled pages, -1 where there is none."""
    pages = [-(-max(each) // page_size) for each in lengths]
    table = torch.full((len(lengths), max(pages) + spare), -1, dtype=torch.int32)
    order = torch.randperm(sum(pages), generator=torch.Generator().manual_seed(7)).int() + 1
    first = 0
    for row, count in enumerate(pages):
        table[row, :count] = order[first : first + count]
        first += count
    return PagedContext(
        page_table=table,
        sequence=torch.tensor([b for b, each in enumerate(lengths) for _ in each]).int(),
        lengths=torch.tensor([length for each in lengths for length in each]).int(),
        max_length=max(max(each) for each in lengths),
    )


def cache(seen: PagedContext, page_size: int, width: int, dtype: torch.dtype) -> Cache:
    """Random rows in all pages, the first of which nobody owns."""
    pages = int(seen.page_table.max()) + 1
    rows = torch.randn(pages * page_size, width, generator=torch.Generator().manual_seed(3))
    rows[:page_size] = torch.nan  # a page that no sequence owns
    return Cache(pages, page_size, width, dtype, rows.to(dtype))


def randn(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def weight(role: WeightRole, tensor: Tensor) -> Weight:
    return Weight(role, tuple(tensor.shape), tensor.dtype, tensor)


def attention(heads: int = 3, page_size: int = 16, dtype: torch.dtype = torch.bfloat16) -> tuple:  # type: ignore[type-arg]
    """Arguments of `latent_attention` with indices."""
    seen = context([[20, 21, 22], [5, 6]], page_size)
    rows = cache(seen, page_size, 576, dtype)
    q = randn(5, heads, 576, dtype=dtype)
    indices = torch.tensor(
        [
            [0, 3, 4, 17, 19, -1],
            [0, 1, 2, 3, 4, 20],
            [21, -1, 2, 3, -1, 5],  # what stands behind the first -1 is not meant
            [0, 1, 4, -1, -1, -1],
            [5, -1, -1, -1, -1, -1],
        ],
        dtype=torch.int32,
    )
    return q[..., :512], q[..., 512:], rows, seen, 0.05, indices


def index(page_size: int = 64, dtype: torch.dtype = torch.bfloat16, width: int = 128) -> tuple:  # type: ignore[type-arg]
    """Arguments of `index_scores`; some keys point away from all heads."""
    seen = context([[130, 131], [64], [3]], page_size, spare=1)
    keys = cache(seen, page_size, width, dtype)
    q = randn(4, 4, width, dtype=dtype).abs()
    keys.tensor[page_size::5] = -keys.tensor[page_size::5].abs()
    return q, randn(4, 4, dtype=torch.float32, seed=2), keys, seen, 0.0442


def scores(k: int) -> tuple[Tensor, Tensor, int]:
    """Arguments of `topk` without equals: their order is what nobody promises."""
    values = torch.randperm(4 * 150, generator=torch.Generator().manual_seed(5)).float()
    return values.view(4, 150), torch.tensor([150, 1, 40, 149], dtype=torch.int32), k


def route(groups: int = 1, experts: int = 256, normalize: bool = True) -> tuple:  # type: ignore[type-arg]
    """Arguments of `moe_route`; one row has no mass, one has equals."""
    logits = randn(6, experts, dtype=torch.float32, seed=4)
    logits[1] = -200.0
    logits[2, 5:40] = 3.0
    bias = weight(WeightRole.VECTOR, randn(experts, dtype=torch.float32, seed=6) * 0.1)
    bias.tensor[5:40] = 1.0
    return logits, bias, 8, groups, max(1, groups // 2), normalize, 2.5


def grouped(dtype: torch.dtype = torch.bfloat16) -> tuple:  # type: ignore[type-arg]
    """Arguments of `grouped_linear`: experts with none, one and more than a block of rows."""
    offsets = torch.tensor([0, 0, 1, 131, 131, 259, 260, 260], dtype=torch.int32)
    w = weight(WeightRole.EXPERTS, randn(7, 24, 32, dtype=dtype, seed=8))
    return randn(260, 32, dtype=dtype), w, offsets
