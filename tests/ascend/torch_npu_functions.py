"""The fused functions as their public pages describe them, in plain torch on the CPU.

They stand where torch_npu's would, under its signatures, and refuse what the pages do not allow.
What has no source is done in a way that the backend must not rely on: the indexer returns its
choice by score, routing the experts by rank, and sigmoids only where they are asked for.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from signatures import signatures
from torch import Tensor

CALLS: list[str] = []
"""Functions that were called, in order."""
_IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {}
_HALF_FLOATS = (torch.bfloat16, torch.float16)


def _stands_in(function: Callable[..., Any]) -> Callable[..., Any]:
    name = function.__name__

    def called(*args: Any, **kwargs: Any) -> Any:
        CALLS.append(name)
        return function(*args, **kwargs)

    _IMPLEMENTATIONS[name] = called
    return function


def _demand(holds: bool, sentence: str) -> None:
    if not holds:
        raise ValueError(sentence)


@_stands_in
def npu_rms_norm(input: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    pairs = {(torch.bfloat16, torch.float32), (torch.float32, torch.float32)}
    _demand((input.dtype, gamma.dtype) in pairs, "gamma has the dtype of x, or float32")
    wide = input.float()
    rstd = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return (wide * rstd * gamma).to(input.dtype), rstd


@_stands_in
def npu_swiglu(input: Tensor, dim: int = -1) -> Tensor:
    _demand(input.is_contiguous() and input.numel() > 0, "neither strided nor empty")
    gate, up = input.double().chunk(2, dim=dim)
    return (gate * torch.sigmoid(gate) * up).to(input.dtype)


@_stands_in
def npu_rotary_mul(
    input: Tensor,
    r1: Tensor,
    r2: Tensor,
    rotary_mode: str = "half",
    rotate: Tensor | None = None,
) -> Tensor:
    _demand(input.dtype == r1.dtype == r2.dtype, "cos and sin have the dtype of x")
    tokens, _, width = input.shape
    _demand(r1.shape == r2.shape == (tokens, 1, width), "T1D for an x of TND")
    if rotary_mode == "half":
        first, second = input.chunk(2, dim=-1)
        turned = torch.cat((-second, first), dim=-1)
    else:
        _demand(rotary_mode == "interleave", "half or interleave")
        turned = torch.stack((-input[..., 1::2], input[..., 0::2]), dim=-1).flatten(-2)
    return input * r1 + turned * r2


@_stands_in
def npu_moe_gating_top_k(
    x: Tensor,
    k: int,
    *,
    bias: Tensor | None = None,
    k_group: int = 1,
    group_count: int = 1,
    group_select_mode: int = 0,
    renorm: int = 0,
    norm_type: int = 0,
    out_flag: bool = False,
    routed_scaling_factor: float = 1.0,
    eps: float = 1e-20,
    **absent: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    _demand(renorm == 0 and norm_type == 1, "renorm 0; here the sigmoid")
    _demand(bias is not None and bias.dtype == x.dtype, "bias has the dtype of x")
    experts = x.shape[1]
    _demand(experts % group_count == 0 and experts // group_count > 2, "groups of more than two")
    scores = torch.sigmoid(x.double()).float()  # torch's float32 sigmoid follows the place
    choice = scores if bias is None else scores + bias
    groups = choice.unflatten(1, (group_count, -1))
    best = groups.topk(2 if group_select_mode else 1, dim=-1).values.sum(-1)
    taken = best.sort(dim=-1, descending=True, stable=True).indices[:, :k_group]
    open_groups = torch.zeros_like(best, dtype=torch.bool).scatter_(1, taken, True)
    choice = groups.masked_fill(~open_groups.unsqueeze(-1), -torch.inf).flatten(1)
    ids = choice.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    weights = scores.gather(1, ids)
    weights = weights / (weights.sum(-1, keepdim=True) + eps) * routed_scaling_factor
    kept = scores if out_flag else torch.full_like(scores, torch.nan)
    return weights.to(x.dtype), ids.int(), kept


@_stands_in
def npu_moe_init_routing_v2(
    x: Tensor,
    expert_idx: Tensor,
    *,
    active_num: int = -1,
    expert_num: int = -1,
    drop_pad_mode: int = 0,
    expert_tokens_num_type: int = 0,
    expert_tokens_num_flag: bool = False,
    quant_mode: int = -1,
    active_expert_range: Sequence[int] = (),
    row_idx_type: int = 0,
    **absent: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    pairs, k = expert_idx.numel(), expert_idx.shape[1]
    _demand(quant_mode == -1 and drop_pad_mode == 0, "here without quantisation or dropping")
    _demand(active_num in (-1, 0, pairs), "all pairs")
    _demand(list(active_expert_range) in ([], [0, expert_num]), "all experts")
    _demand(expert_idx.dtype is torch.int32, "ids are int32")
    order = torch.sort(expert_idx.flatten(), stable=True).indices
    places = torch.empty(pairs, dtype=torch.int32)
    places[order] = torch.arange(pairs, dtype=torch.int32)
    counts = torch.bincount(expert_idx.flatten(), minlength=expert_num)
    counted = counts if expert_tokens_num_type == 1 else counts.cumsum(0)
    if not expert_tokens_num_flag:
        counted = torch.full_like(counts, -1)
    index = order.int() if row_idx_type == 1 else places
    return x[order // k], index, counted, torch.full((pairs,), torch.nan)


@_stands_in
def npu_grouped_matmul(
    x: Sequence[Tensor],
    weight: Sequence[Tensor],
    *,
    group_list: Tensor | None = None,
    split_item: int = 0,
    group_type: int | None = None,
    group_list_type: int = 0,
    **absent: Any,
) -> list[Tensor]:
    (rows,), (matrices,) = x, weight
    assert group_list is not None
    _demand(split_item in (2, 3) and group_type == 0, "here one result, grouped by rows")
    _demand(rows.dtype == matrices.dtype, "one dtype")
    _demand(group_list.dtype is torch.int64, "the list of groups is int64")
    _demand(group_list.shape == matrices.shape[:1], "one entry a matrix")
    ends = group_list.cumsum(0) if group_list_type == 1 else group_list
    bounds = [0, *ends.tolist()]
    _demand(bounds == sorted(bounds) and bounds[-1] == rows.shape[0], "every row has a group")
    out = rows.new_empty(rows.shape[0], matrices.shape[2])
    for matrix, (start, end) in zip(matrices, itertools.pairwise(bounds), strict=True):
        product = rows[start:end].double() @ matrix.double()  # float32 ones follow the shape
        out[start:end] = product.to(out.dtype)
    return [out]


@_stands_in
def npu_moe_finalize_routing(
    expanded_permuted_rows: Tensor,
    skip1: Tensor | None,
    skip2: Tensor | None,
    bias: Tensor | None,
    scales: Tensor | None,
    expanded_src_to_dst_row: Tensor,
    export_for_source_row: Tensor | None,
    drop_pad_mode: int | None = 0,
    k: int | None = 1,
) -> Tensor:
    rows = expanded_permuted_rows
    assert scales is not None
    _demand(scales.dtype == rows.dtype, "scales have the dtype of the rows")
    _demand(skip1 is skip2 is bias is None, "here without skips and bias")
    _demand(drop_pad_mode in (0, 2), "here nothing is dropped")
    tokens, slots = scales.shape
    places = expanded_src_to_dst_row.long()
    by_token = places.view(tokens, slots) if drop_pad_mode == 2 else places.view(slots, tokens).T
    out = torch.zeros(tokens, rows.shape[1], dtype=rows.dtype)
    for slot in range(slots):
        out = out + scales[:, slot : slot + 1] * rows[by_token[:, slot]]
    return out


class _Sequences:
    """What TND queries and PA_BSND keys have in common: which rows a token sees."""

    def __init__(self, tokens: int, page_size: int, told: dict[str, Any], lengths: Tensor) -> None:
        ends = told["actual_seq_lengths_query"]
        self._table = told["block_table"]
        _demand(told["layout_query"] == "TND", "here queries lie as TND")
        _demand({ends.dtype, lengths.dtype, self._table.dtype} == {torch.int32}, "int32")
        _demand(self._table.shape[0] == len(ends) == len(lengths), "one entry a sequence")
        _demand(page_size % 16 == 0 and page_size <= 1024, "pages of 16 to 1024 rows")
        bounds = [0, *ends.tolist()]
        _demand(bounds == sorted(bounds) and bounds[-1] == tokens, "ends add up to the tokens")
        causal = {0: False, 3: True}[told["sparse_mode"]]
        self._page_size = page_size
        self.of: list[tuple[int, int]] = []
        """Sequence and number of visible rows of each token."""
        for one, (start, end) in enumerate(itertools.pairwise(bounds)):
            whole = int(lengths[one])
            _demand(whole <= self._table.shape[1] * page_size, "the table holds every row")
            self.of += [(one, whole - (end - 1 - token) * causal) for token in range(start, end)]

    def rows(self, pages: Tensor, token: int, positions: Tensor) -> Tensor:
        """Rows of `pages` [pages, page_size, 1, D] at positions of the token's sequence."""
        sequence, _ = self.of[token]
        page = self._table[sequence, positions // self._page_size].long()
        return pages[page, positions % self._page_size, 0]


@_stands_in
def npu_lightning_indexer(
    query: Tensor,
    key: Tensor,
    weights: Tensor,
    *,
    actual_seq_lengths_key: Tensor,
    layout_key: str = "BSND",
    sparse_count: int = 2048,
    return_value: bool = False,
    **told: Any,
) -> tuple[Tensor, Tensor]:
    tokens, heads, width = query.shape
    _demand(layout_key == "PA_BSND" and not return_value, "here keys lie in pages")
    _demand(query.dtype == key.dtype and query.dtype in _HALF_FLOATS, "half-precision floats")
    _demand(weights.dtype in (torch.float32, query.dtype), "weights: float32, or as the query")
    _demand(heads <= 64 and key.shape[2] == 1 and width == 128, "64 heads, one key, width 128")
    _demand(1 <= sparse_count <= 2048, "1 to 2048 rows are chosen")
    _demand(query.is_contiguous() and key.is_contiguous(), "nothing strided")
    sequences = _Sequences(tokens, key.shape[1], told, actual_seq_lengths_key)
    out = torch.full((tokens, 1, sparse_count), -1, dtype=torch.int32)
    for token, (_, visible) in enumerate(sequences.of):
        rows = sequences.rows(key, token, torch.arange(visible)).double()
        dots = torch.relu(query[token].double() @ rows.T)
        scores = (weights[token].double() @ dots + 0.0).float()
        best = scores.sort(descending=True, stable=True).indices[:sparse_count]
        out[token, 0, : len(best)] = best
    return out, query.new_empty(0)


@_stands_in
def npu_sparse_flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    sparse_indices: Tensor,
    scale_value: float,
    *,
    actual_seq_lengths_kv: Tensor,
    query_rope: Tensor,
    key_rope: Tensor,
    sparse_block_size: int = 1,
    layout_kv: str = "BSND",
    attention_mode: int = 0,
    **told: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    tokens, heads, latent = query.shape
    _demand(layout_kv == "PA_BSND" and attention_mode == 2, "pages; absorbed is the only mode")
    _demand(sparse_block_size == 1, "here rows, not blocks, are named")
    _demand(heads in (1, 2, 4, 8, 16, 32, 64, 128), "heads are a power of two up to 128")
    _demand((latent, query_rope.shape[2]) == (512, 64), "parts of 512 and 64 values")
    parts = (query, key, query_rope, key_rope)
    _demand(len({part.dtype for part in parts}) == 1, "one dtype")
    _demand(query.dtype in _HALF_FLOATS, "half-precision floats")
    _demand(all(part.is_contiguous() for part in parts), "nothing strided")
    _demand(value is not None and value.data_ptr() == key.data_ptr(), "keys are also the values")
    _demand(sparse_indices.shape[:2] == (tokens, 1), "indices lie as TND")
    sequences = _Sequences(tokens, key.shape[1], told, actual_seq_lengths_kv)
    out = torch.zeros_like(query)
    for token, (_, visible) in enumerate(sequences.of):
        named = sparse_indices[token, 0]
        valid = int((named >= 0).sum())
        _demand(bool((named[:valid] >= 0).all()), "valid indices are packed")
        positions = named[:valid].long()
        _demand(not valid or int(positions.max()) < visible, "indices are within the length")
        rows = sequences.rows(key, token, positions).float()
        turned = sequences.rows(key_rope, token, positions).float()
        scores = query[token].float() @ rows.T + query_rope[token].float() @ turned.T
        weights = torch.softmax(scores * scale_value, dim=-1)
        out[token] = (weights @ rows).to(out.dtype)
    return out, torch.empty(0), torch.empty(0)


LIBRARY = torch.library.Library("npu", "FRAGMENT")
"""What holds the functions; they are gone with it."""
for _name, _signature in signatures().items():
    LIBRARY.define(_signature)
    LIBRARY.impl(_name, _IMPLEMENTATIONS[_name], "CPU")
