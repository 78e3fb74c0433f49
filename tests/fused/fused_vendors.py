"""The vendors with fused ops, and the stand-in of each function they call."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import stand_ins
import torch

from glm5_hal.backends.cambricon.fused import FUSED as CAMBRICON
from glm5_hal.backends.hygon.fused import FUSED as HYGON
from glm5_hal.backends.kunlun.fused import FUSED as KUNLUN
from glm5_hal.backends.metax.fused import FUSED as METAX
from glm5_hal.backends.moore_threads.fused import FUSED as MOORE_THREADS

VENDORS = {
    "cambricon": CAMBRICON,
    "hygon": HYGON,
    "kunlun": KUNLUN,
    "metax": METAX,
    "moore_threads": MOORE_THREADS,
}
FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("cambricon", "moe_route"): stand_ins.moe_sigmoid_topk,
    ("cambricon", "grouped_linear"): stand_ins.group_gemm,
    ("cambricon", "swiglu"): stand_ins.active,
    ("hygon", "latent_attention"): stand_ins.flash_mla_sparse_fwd_by_64,
    ("hygon", "index_scores"): stand_ins.paged_mqa_logits,
    ("hygon", "topk"): stand_ins.top_k_per_row_prefill,
    ("hygon", "moe_route"): stand_ins.moe_fused_gate_of_lightop,
    ("kunlun", "latent_attention"): stand_ins.fwd_kvcache_mla,
    ("kunlun", "topk"): stand_ins.topk_per_row,
    ("kunlun", "moe_route"): stand_ins.moe_sigmoid_group_topk_norm,
    ("kunlun", "swiglu"): stand_ins.swiglu,
    ("metax", "latent_attention"): stand_ins.flash_mla_sparse_fwd_by_64,
    ("metax", "index_scores"): stand_ins.bf16_paged_mqa_logits,
    ("metax", "moe_route"): stand_ins.grouped_topk,
    ("moore_threads", "latent_attention"): stand_ins.flash_mla_sparse_fwd,
    ("moore_threads", "moe_route"): stand_ins.moe_fused_gate_of_mate,
    ("moore_threads", "grouped_linear"): stand_ins.m_grouped_bf16_gemm_nt_contiguous,
}
RECORDS = [
    pytest.param(vendor, fused, id=f"{vendor}-{fused.op}")
    for vendor, records in VENDORS.items()
    for fused in records
]


def of(op: str) -> list[Any]:
    """The records of one op."""
    return [case for case in RECORDS if case.values[1].op == op]


VERSIONS = {
    "mate": "0.2.2",
    "lightop": "0.6.0+das.dtk2604",
    "kunlun_ops": "0.1.58+ee39020a",
    "xspeedgate_ops": "1.1.0+53992ca",
}


def put_libraries(vendor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins of all a vendor's libraries, as if they were installed."""
    for fused in VENDORS[vendor]:
        name, _, path = fused.function.partition(":")
        steps = name.split(".")
        for depth in range(1, len(steps) + 1):
            part = ".".join(steps[:depth])
            if part not in sys.modules:
                monkeypatch.setitem(sys.modules, part, stand_ins.module(part, __path__=[]))
        found = VERSIONS.get(steps[0], "1.0")
        monkeypatch.setattr(sys.modules[steps[0]], "__version__", found, raising=False)
        owner, _, last = path.rpartition(".")
        members = {last: FUNCTIONS[vendor, fused.op]}
        if owner:
            space = stand_ins.module(owner, **members)
            monkeypatch.setattr(torch.ops, owner.removeprefix("torch.ops."), space, raising=False)
        else:
            members |= {other: getattr(stand_ins, other) for other in fused.besides}
            for member, function in members.items():
                monkeypatch.setattr(sys.modules[name], member, function, raising=False)
