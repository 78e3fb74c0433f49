"""A call beyond one limit is answered by the portable kernel, and the log says which limit."""

import functools
import logging
from dataclasses import replace
from typing import Any

import on_host
import pytest
import torch
import torch_npu_functions
from real_calls import OPS_CALLED, Sizes, calls

from glm5_hal import Backend
from glm5_hal.backends.ascend.records import Record, table
from glm5_hal.backends.torch_triton.fast import FastOps

RECORDS = table().records
SMALL = Sizes(
    tokens=3, hidden=2064, heads=4, index_heads=4, experts=16, chosen=4, inner=8, top=20,
    page_size=16,
)  # fmt: skip
WITHIN = {
    "rope": replace(SMALL, dtype=torch.float32),
    "moe_combine": replace(SMALL, dtype=torch.float32),
}
"""Sizes that keep to every limit, where they are not the small ones."""
OUTSIDE: dict[tuple[str, str], list[tuple[dict[str, Any], str]]] = {
    ("rms_norm", "activations"): [({"dtype": torch.float32}, "float32, expected bfloat16")],
    ("rms_norm", "width"): [({"hidden": 2000}, "2000, expected at least 2001")],
    ("moe_dispatch", "activations"): [],
    ("moe_dispatch", "experts"): [({"experts": 10241}, "10241, expected at most 10240")],
    ("swiglu", "activations"): [],
    ("rope", "activations"): [({"dtype": torch.bfloat16}, "bfloat16, expected float32")],
    ("rope", "width"): [
        ({"rotated": 63}, "63, expected a multiple of 2"),
        ({"rotated": 896}, "896, expected at most 894"),
    ],
    ("rope", "heads"): [({"heads": 1000}, "1000, expected at most 999")],
    ("moe_route", "experts"): [({"experts": 2049}, "2049, expected at most 2048")],
    ("moe_route", "group_size"): [({"groups": 8}, "2, expected at least 3")],
    ("moe_route", "padded_experts"): [
        ({"experts": 260, "groups": 65}, "2080, expected at most 2048")
    ],
    ("moe_route", "uneven_experts"): [({"groups": 3}, "1, expected at most 0")],
    ("moe_combine", "activations"): [({"dtype": torch.bfloat16}, "bfloat16, expected float32")],
    ("grouped_linear", "activations"): [],
    ("grouped_linear", "mixed"): [({"weight_dtype": torch.float32}, "True, expected False")],
    ("grouped_linear", "width"): [({"hidden": 65536}, "65536, expected at most 65535")],
    ("grouped_linear", "columns"): [
        ({"inner": 32768, "hidden": 8}, "65536, expected at most 65535")
    ],
    ("grouped_linear", "experts"): [
        ({"experts": 1025, "hidden": 8}, "1025, expected at most 1024")
    ],
    ("dsa_select", "activations"): [({"dtype": torch.float32}, "float32, expected bfloat16")],
    ("dsa_select", "heads"): [({"index_heads": 65}, "65, expected at most 64")],
    ("dsa_select", "width"): [({"index_width": 64}, "64, expected 128")],
    ("dsa_select", "page_size"): [
        ({"page_size": 24}, "24, expected a multiple of 16"),
        ({"page_size": 1040}, "1040, expected at most 1024"),
    ],
    ("dsa_select", "k"): [({"top": 2049}, "2049, expected at most 2048")],
    ("latent_attention", "activations"): [({"dtype": torch.float32}, "float32, expected bfloat16")],
    ("latent_attention", "latent"): [({"latent": 256}, "256, expected 512")],
    ("latent_attention", "rotated"): [({"rotated": 32}, "32, expected 64")],
    ("latent_attention", "heads"): [({"heads": 48}, "48, expected 1 or 2 or 4")],
    ("latent_attention", "page_size"): [
        ({"page_size": 24}, "24, expected a multiple of 16"),
        ({"page_size": 1040}, "1040, expected at most 1024"),
    ],
}
"""Changes that go beyond one limit. None can where the contract has no other dtypes."""
CASES = [
    pytest.param(op, of, changes, reason, id=f"{op}-{of}-{reason.split(',')[0]}")
    for (op, of), each in OUTSIDE.items()
    for changes, reason in each
]


@pytest.fixture
def portable(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ops that reached the portable kernels, which answer nothing here."""
    reached: list[str] = []

    def reaching(op: str) -> Any:
        @functools.wraps(getattr(FastOps, op))
        def reach(*args: Any, **named: Any) -> None:
            reached.append(op)

        return reach

    for op in OPS_CALLED:
        monkeypatch.setattr(FastOps, op, reaching(op))
    return reached


@pytest.fixture(autouse=True)
def _no_calls_yet() -> None:
    torch_npu_functions.CALLS.clear()


def _backend(name: str = "Ascend910B3") -> Backend:
    """One that has not told anything yet, of a class that finds the portable kernels anew."""
    return on_host.runtime("all", backend=on_host.chip(name)).backend


def _told(caplog: pytest.LogCaptureFixture, op: str) -> list[str]:
    start = f"ascend: {op} runs the portable kernel: "
    return [text.removeprefix(start) for text in caplog.messages if text.startswith(start)]


def _forms(op: str, backend: Backend, sizes: Sizes) -> list[dict[str, Any]]:
    """Calls whose indices are sound."""
    forms = calls(op, backend, sizes)
    for form in forms:
        if op == "grouped_linear":
            form["offsets"][1:] = sizes.tokens * sizes.chosen
        if op == "moe_combine":
            form["slots"] = torch.arange(form["slots"].numel(), dtype=torch.int32)
    return forms


@pytest.mark.parametrize("op", OPS_CALLED)
def test_within_the_limits_the_function_answers(op: str, portable: list[str]) -> None:
    backend = _backend()
    forms = _forms(op, backend, WITHIN.get(op, SMALL))
    for form in forms:
        getattr(backend, op)(**form)
    assert len(torch_npu_functions.CALLS) == len(forms)
    assert set(torch_npu_functions.CALLS) == {RECORDS[op].function}
    assert portable == []


@pytest.mark.parametrize(("op", "of", "changes", "reason"), CASES)
def test_beyond_a_limit_the_portable_kernel_answers(
    op: str,
    of: str,
    changes: dict[str, Any],
    reason: str,
    portable: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = _backend()
    sizes = replace(WITHIN.get(op, SMALL), **changes)
    with caplog.at_level(logging.WARNING, "glm5_hal"):
        for form in calls(op, backend, sizes) * 2:
            getattr(backend, op)(**form)
    assert set(portable) == {op}
    assert torch_npu_functions.CALLS == []
    (told,) = _told(caplog, op)  # once
    assert told.startswith(f"{of} is {reason}")


@pytest.mark.parametrize("op", OPS_CALLED)
def test_on_another_generation_the_portable_kernel_answers(
    op: str, portable: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    backend = _backend("Ascend950PR")
    for form in calls(op, backend, WITHIN.get(op, SMALL)):
        getattr(backend, op)(**form)
    assert torch_npu_functions.CALLS == []
    assert set(portable) == {op}
    (told,) = _told(caplog, op)
    assert told.startswith("generation is A5, expected A2")


@pytest.mark.parametrize("record", RECORDS.values(), ids=lambda record: record.op)
def test_every_limit_is_tried(record: Record) -> None:
    kinds = {limit.of for limit in record.limits} - {"generation"}
    assert kinds == {of for op, of in OUTSIDE if op == record.op}
    for of in kinds:
        tried = len(OUTSIDE[record.op, of])
        wanted = sum(limit.of == of for limit in record.limits)
        either = any({"bfloat16", "float32"} <= set(limit.one_of) for limit in record.limits)
        assert tried == wanted or (tried == 0 and of == "activations" and either)


@pytest.mark.parametrize("op", OPS_CALLED)
def test_no_limit_is_of_the_number_of_rows(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row's bytes may not hang on its batch, so neither may what computes it."""
    seen: list[object] = []
    monkeypatch.setattr(Record, "obstacle", lambda self, facts: seen.append(facts))
    backend = _backend()
    for tokens in (1, 3):
        sizes = replace(WITHIN.get(op, SMALL), tokens=tokens)
        getattr(backend, op)(**_forms(op, backend, sizes)[0])
    first, second = seen
    assert first == second
