"""Vendors' modules with the published signatures, computing with plain torch on the host.

They take what the published functions take and refuse the rest, and leave what those leave
undefined as NaN.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor


def module(name: str, **members: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(members)
    return made


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let it reach a device's memory, as kernels do, whatever the device itself can compute."""

    @functools.wraps(function)
    def run(*arguments: Any, **named: Any) -> Any:
        given = [*arguments, *named.values()]
        away = [v for v in given if isinstance(v, Tensor) and v.device.type != "cpu"]
        if not away:
            return function(*arguments, **named)
        here = {id(tensor): tensor.cpu() for tensor in away}
        found = function(
            *(here.get(id(value), value) for value in arguments),
            **{name: here.get(id(value), value) for name, value in named.items()},
        )
        for tensor in away:
            tensor.copy_(here[id(tensor)])  # whichever it wrote
        back = [v.to(away[0].device) for v in _tensors(found)]
        return tuple(back) if isinstance(found, tuple) else next(iter(back), None)

    return run


def _tensors(found: Any) -> tuple[Tensor, ...]:
    if isinstance(found, tuple):
        return found
    return () if found is None else (found,)


# --- FlashMLA's sparse form: Moore Threads, Hygon, MetaX ---


@kernel
def flash_mla_sparse_fwd(
    q: Tensor,
    kv: Tensor,
    indices: Tensor,
    sm_scale: float,
    d_v: int = 512,
    attn_sink: Tensor | None = None,
    topk_length: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    assert q.dtype == kv.dtype == torch.bfloat16
    assert indices.dtype == torch.int32
    assert q.shape[2] == kv.shape[2] == 576
    assert d_v == 512
    assert kv.shape[1] == indices.shape[1] == 1
    assert indices.shape[2] % 64 == 0
    assert all(tensor.stride(-1) == 1 for tensor in (q, kv, indices))
    chosen = indices[:, 0]
    hidden = (chosen < 0) | (chosen >= kv.shape[0])
    rows = kv[:, 0].double()[chosen.masked_fill(hidden, 0).long()]
    rows = rows.masked_fill(hidden.unsqueeze(-1), 0.0)  # a place without a row reads nothing
    scores = torch.einsum("thd,tkd->thk", q.double(), rows) * sm_scale
    scores = scores.masked_fill(hidden.unsqueeze(1), -torch.inf)
    weights = torch.softmax(scores, -1)
    out = torch.einsum("thk,tkc->thc", weights, rows[..., :d_v])
    return out.to(q.dtype), scores.amax(-1).float(), scores.logsumexp(-1).float()


@kernel
def flash_mla_sparse_fwd_by_64(
    q: Tensor,
    kv: Tensor,
    indices: Tensor,
    sm_scale: float,
    d_v: int = 512,
    attn_sink: Tensor | None = None,
    topk_length: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The form whose heads are a multiple of 64."""
    assert q.shape[1] % 64 == 0
    return flash_mla_sparse_fwd(q, kv, indices, sm_scale, d_v, attn_sink, topk_length)


# --- paged indexers: Hygon, MetaX ---


def _paged_scores(
    q: Tensor, keys: Tensor, weights: Tensor, lengths: list[int], table: Tensor, width: int
) -> Tensor:
    assert q.dtype == keys.dtype == torch.bfloat16
    assert weights.dtype == torch.float32
    assert weights.is_contiguous()
    assert keys.shape[1:3] == (64, 1)
    assert q.shape[1] == 1
    assert table.dtype == torch.int32
    assert bool((table >= 0).all())
    out = torch.full(
        (q.shape[0], width), torch.nan, device=q.device
    )  # what is not visible is not cleaned
    for row, length in enumerate(lengths):
        seen = keys[table[row].long(), :, 0].flatten(0, 1)[:length].double()
        dots = torch.relu(q[row, 0].double() @ seen.T)
        sums = (weights[row].double() @ dots).float()
        out[row, :length] = torch.where(sums == 0, -0.0, sums)  # as a sum of negative zeros is
    return out


@kernel
def paged_mqa_logits(
    q: Tensor,
    kv_cache: Tensor,
    weights: Tensor,
    context_lens: Tensor,
    block_tables: Tensor,
    schedule_metadata: Tensor | None,
    max_model_len: int,
    clean_logits: bool,
) -> Tensor:
    """LightOp's."""
    assert schedule_metadata is None
    assert not clean_logits
    return _paged_scores(q, kv_cache, weights, context_lens.tolist(), block_tables, max_model_len)


@kernel
def get_paged_mqa_logits_metadata(context_lens: Tensor, block_kv: int, num_sms: int) -> Tensor:
    """DeepGEMM's."""
    assert context_lens.dim() == 2
    made = torch.tensor([[block_kv, num_sms]] * (num_sms + 1), dtype=torch.int32)
    return made.to(context_lens.device)


@kernel
def bf16_paged_mqa_logits(
    q_bf16: Tensor,
    kv_cache_bf16: Tensor,
    weights: Tensor,
    context_lens: Tensor,
    block_tables: Tensor,
    schedule_metadata: Tensor,
    max_model_len: int,
    clean_logits: bool = True,
) -> Tensor:
    """MACA's DeepGEMM's."""
    assert context_lens.shape == (q_bf16.shape[0], 1)
    processors = len(schedule_metadata) - 1
    assert schedule_metadata.tolist() == [[64, processors]] * (processors + 1)
    assert not clean_logits
    lengths = context_lens[:, 0].tolist()
    return _paged_scores(q_bf16, kv_cache_bf16, weights, lengths, block_tables, max_model_len)


# --- selection: Hygon, Kunlunxin ---


@kernel
def top_k_per_row_prefill(
    logits: Tensor,
    row_starts: Tensor,
    row_ends: Tensor,
    topk_indices: Tensor,
    num_rows: int,
    stride0: int,
    stride1: int,
    topk_tokens: int,
) -> None:
    """LightOp's: positions from the start of a row, in any order; the rest is left alone."""
    assert logits.stride() == (stride0, stride1)
    assert topk_indices.shape == (num_rows, topk_tokens)
    for row in range(num_rows):
        seen = logits[row, row_starts[row] : row_ends[row]]
        best = seen.sort(descending=True, stable=True).indices[:topk_tokens]
        topk_indices[row, : len(best)] = best.flip(0).int()


@kernel
def topk_per_row(
    logits: Tensor,
    srcIndices: Tensor,  # noqa: N803 - the published name
    numRows: int,  # noqa: N803
    stride0: int,
    stride1: int,
    topK: int,  # noqa: N803
    rowStarts: Tensor | None,  # noqa: N803
    rowEnds: Tensor | None,  # noqa: N803
    seqLens: Tensor | None,  # noqa: N803
    next_n: int | None,
) -> None:
    """xspeedgate_ops', in its form for prefill."""
    assert rowStarts is not None
    assert rowEnds is not None
    assert seqLens is None
    assert next_n is None
    top_k_per_row_prefill(logits, rowStarts, rowEnds, srcIndices, numRows, stride0, stride1, topK)


# --- routers ---


def _choose(logits: Tensor, bias: Tensor, k: int, n_group: int, topk_group: int) -> Tensor:
    """Experts [T, k], the best first."""
    assert logits.dtype == bias.dtype == torch.float32
    assert logits.is_contiguous()
    choice = torch.sigmoid(logits.double()).float() + bias
    if n_group > 1:
        groups = choice.unflatten(1, (n_group, -1))
        best = groups.topk(2, dim=-1).values.sum(-1)
        order = best.sort(dim=-1, descending=True, stable=True).indices[:, topk_group:]
        groups = groups.scatter(1, order.unsqueeze(-1).expand(-1, -1, groups.shape[2]), -torch.inf)
        choice = groups.flatten(1)
    return choice.sort(dim=-1, descending=True, stable=True).indices[:, :k].int()


@kernel
def moe_fused_gate_of_mate(
    input: Tensor,
    bias: Tensor,
    num_expert_group: int,
    topk_group: int,
    topk: int,
    num_fused_shared_experts: int,
    routed_scaling_factor: float,
    renormalize: bool,
    apply_routed_scaling_factor_on_output: bool,
    num_token_non_padded: int = 0,
) -> tuple[Tensor, Tensor]:
    assert num_fused_shared_experts == 0
    ids = _choose(input, bias, topk, num_expert_group, topk_group)
    return torch.full(ids.shape, torch.nan), ids


@kernel
def moe_fused_gate_of_lightop(
    router_logits: Tensor,
    bias: Tensor,
    num_expert_group: int,
    topk_group: int,
    topk: int,
    num_fused_shared_experts: int,
    routed_scaling_factor: float,
) -> tuple[Tensor, Tensor]:
    assert num_fused_shared_experts == 0
    ids = _choose(router_logits, bias, topk, num_expert_group, topk_group)
    return torch.full(ids.shape, torch.nan), ids


@kernel
def grouped_topk(
    scores: Tensor,
    n_group: int,
    topk_group: int,
    topk: int,
    renormalize: bool,
    routed_scaling_factor: float,
    bias: Tensor,
    scoring_func: int,
) -> tuple[Tensor, Tensor]:
    assert scoring_func == 1  # sigmoid
    ids = _choose(scores, bias, topk, n_group, topk_group)
    return torch.full(ids.shape, torch.nan), ids


@kernel
def moe_sigmoid_group_topk_norm(
    x: Tensor,
    topk_index: Tensor,
    norm_score: Tensor,
    block_static: Tensor,
    bias: Tensor,
    scale: float,
    n_group: int,
    topk_group: int,
) -> None:
    assert topk_index.dtype == block_static.dtype == torch.int32
    assert norm_score.dtype == torch.float32
    assert block_static.shape == (12, x.shape[1])
    assert not block_static.any()
    topk_index.copy_(_choose(x, bias, topk_index.shape[1], n_group, topk_group))
    norm_score.fill_(torch.nan)


@kernel
def moe_sigmoid_topk(
    input: Tensor,
    topk: int,
    normalize: bool = False,
    num_expert_group: int = -1,
    topk_group: int = 0,
    route_scale: float = 1.0,
    score_bias: Tensor | None = None,
    reduce_weight: Tensor | None = None,
    expert_id: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    assert score_bias is not None
    ids = _choose(input, score_bias, topk, num_expert_group, topk_group)
    return torch.full(ids.shape, torch.nan), ids


# --- experts ---


@kernel
def m_grouped_bf16_gemm_nt_contiguous(
    a: Tensor, b: Tensor, d: Tensor, m_indices: Tensor, alignment_m: int = 128
) -> None:
    """MATE's: a block of rows belongs to one expert; what belongs to none stays undefined."""
    assert a.shape[0] % alignment_m == 0
    assert a.dtype == b.dtype == d.dtype == torch.bfloat16
    d.fill_(torch.nan)
    for first in range(0, a.shape[0], alignment_m):
        owners = m_indices[first : first + alignment_m]
        owned = owners >= 0
        assert len(owners[owned].unique()) <= 1
        for expert in owners[owned].unique().tolist():
            rows = a[first : first + alignment_m][owned].double()
            place = torch.arange(first, first + alignment_m, device=a.device)[owned]
            d[place] = (rows @ b[expert].double().T).to(d.dtype)


@kernel
def group_gemm(
    a: Tensor,
    b: Tensor,
    m_list: Tensor,
    expand_idx: Tensor | None,
    c: Tensor | None,
    alpha: Tensor | None,
    beta: Tensor | None,
    max_m: int,
    d: Tensor | None = None,
) -> Tensor:
    """torch_mlu_ops'."""
    assert expand_idx is c is alpha is beta is d is None
    assert m_list.dtype == torch.int32
    assert len(m_list) == len(b)
    assert max_m >= int(m_list.max())
    parts = a.split(m_list.tolist())
    products = [
        (part.double() @ w.double().T).to(a.dtype) for part, w in zip(parts, b, strict=True)
    ]
    return torch.cat(products)


@kernel
def active(input: Tensor, act_mode: str, is_gated: bool) -> Tensor:
    """torch_mlu_ops'."""
    assert act_mode == "silu"
    assert is_gated
    gate, up = input.double().chunk(2, dim=-1)
    return (torch.nn.functional.silu(gate) * up).to(input.dtype)


@kernel
def swiglu(x: Tensor, y: Tensor) -> None:
    """kunlun_ops'."""
    assert x.is_contiguous()
    y.copy_(active(x, "silu", True))


# --- Kunlunxin's attention ---


@kernel
def fwd_kvcache_mla(
    q_c: Tensor,
    kv_cache: Tensor,
    indices: Tensor,
    kv_lod_cpu: Tensor,
    out: Tensor,
    max_logits: Tensor,
    p_sums: Tensor,
    softmax_scale: float,
    max_seq_kv: int,
    q_r: Tensor | None = None,
    pe_cache: Tensor | None = None,
    use_xfa_boost: bool = False,
    kv_lod_xpu: Tensor | None = None,
) -> None:
    assert q_c.shape[1] <= 2
    assert kv_lod_xpu is not None
    assert torch.equal(kv_lod_cpu, kv_lod_xpu)
    assert max_seq_kv >= int(kv_lod_cpu.max())
    assert max_logits.shape == p_sums.shape == q_c.shape[:3]
    wide = torch.nn.functional.pad(indices[:, 0], (0, -indices.shape[2] % 64), value=-1)
    found, _, _ = flash_mla_sparse_fwd(
        q_c[:, 0], kv_cache.unsqueeze(1), wide.unsqueeze(1), softmax_scale
    )
    out[:, 0] = found
