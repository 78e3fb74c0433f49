"""Each mapping gives the contract's result, with functions that follow their pages in its place."""

from collections.abc import Iterator

import on_host
import pytest
import torch
import torch_npu_functions

from glm5_hal import Numerics, Runtime
from glm5_hal.backends.ascend.records import table
from glm5_hal.conformance import bounds
from glm5_hal.conformance.call import Call, answer
from glm5_hal.conformance.case import ACCURACY, FUNCTION, Case, Status
from glm5_hal.conformance.catalogue import catalogue
from glm5_hal.conformance.compare import first_difference
from glm5_hal.conformance.judge import judge
from glm5_hal.conformance.shapes import Shape
from glm5_hal.conformance.subjects import Variant
from glm5_hal.levels import Level

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
RECORDS = table().records
IN_EITHER = ("grouped_linear", "moe_dispatch", "moe_route", "swiglu")
IN_FLOAT32 = ("moe_combine", "rope")
"""Ops whose quick cases keep to the limits, in either dtype or in float32 alone."""
ASPECTS = (ACCURACY, FUNCTION, Level.BATCH_INVARIANT.value, Level.SCHEDULE_INVARIANT.value)
PAGED = {"T": 9, "S": 90, "k": 33, "page": 16}
SMALL = {
    "rms_norm": {"T": 5, "D": 2064},
    "latent_attention": {"H": 4, "C": 512, "R": 64, **PAGED},
    "dsa_select": {"H": 8, "D": 128, **PAGED},
}
"""Small shapes of the others within the limits."""
REAL = (
    "ATTENTION-1/accuracy/T3-H64-C512-R64-S2300-k2048-page64/normal/bf16",
    "DISPATCH-1/parity/T65-D6144-E256-k8/normal/bf16",
    "DSA-SELECT-1/parity-ties/T3-H32-D128-S2300-k2048-page64/normal/bf16",
    "RMS-NORM-2/accuracy/T5-D6144/normal/bf16",
)
"""Cases at GLM-5's own sizes."""


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return on_host.runtime("all")


@pytest.fixture(autouse=True)
def _no_calls_yet() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch_npu_functions.CALLS.clear()
    yield
    torch.set_num_threads(threads)


def _small(op: str, **changes: int) -> Call:
    return Variant(op, Shape({**SMALL[op], **changes}), dtype="bf16").call()


def _cases() -> Iterator[Case]:
    for case in catalogue().values():
        if case.profile is Numerics.FAST and case.aspect in ASPECTS and case.quick:
            float32 = "bf16" not in case.id.split("/")
            if case.op in IN_EITHER or (case.op in IN_FLOAT32 and float32):
                yield case


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in _cases()])
def test_the_suites_cases_pass(case: Case, runtime: Runtime) -> None:
    result = judge(case, runtime)
    assert result.status is Status.PASS, result.message
    assert set(torch_npu_functions.CALLS) == {RECORDS[case.op].function}


@pytest.mark.parametrize("name", REAL)
def test_cases_at_real_sizes_pass(name: str, runtime: Runtime) -> None:
    case = catalogue()[name]
    result = judge(case, runtime)
    assert result.status is Status.PASS, result.message
    assert set(torch_npu_functions.CALLS) == {RECORDS[case.op].function}


@pytest.mark.parametrize("op", ["rms_norm", "latent_attention"])
def test_results_are_within_the_suites_bound(op: str, runtime: Runtime) -> None:
    call = _small(op)
    exact, bound = bounds.of(call, Numerics.FAST)
    bounds.judge(call, exact, bound, answer(runtime, call))
    assert set(torch_npu_functions.CALLS) == {RECORDS[op].function}


@pytest.mark.parametrize("kind", ["normal", "zeros", "neartie"])
def test_selection_is_that_of_the_definition(kind: str, runtime: Runtime) -> None:
    call = Variant("dsa_select", Shape(SMALL["dsa_select"]), kind, "bf16").call()
    assert first_difference(call.reference(), answer(runtime, call)) is None
    assert set(torch_npu_functions.CALLS) == {RECORDS["dsa_select"].function}


def test_a_norm_without_residual_returns_its_input(runtime: Runtime) -> None:
    call = _small("rms_norm").with_arguments(residual=None)
    exact, bound = bounds.of(call, Numerics.FAST)
    found = answer(runtime, call)
    bounds.judge(call, exact, bound, found)
    assert torch.equal(found[1], call.arguments["x"])


@pytest.mark.parametrize("op", sorted(SMALL))
def test_a_token_alone_has_the_same_bytes(op: str, runtime: Runtime) -> None:
    call = _small(op)
    whole = answer(runtime, call)
    order = torch.tensor([7, 2]) % call.tokens
    some = answer(runtime, call.take(order))
    assert first_difference(tuple(part[order] for part in whole), some) is None


def test_naming_every_row_gives_the_bytes_of_naming_none(runtime: Runtime) -> None:
    call = _small("latent_attention", k=0)
    context = call.arguments["context"]
    rows = torch.arange(context.max_length, dtype=torch.int32)
    named = torch.where(rows < context.lengths.unsqueeze(1), rows, -1)
    expected = answer(runtime, call)
    assert first_difference(expected, answer(runtime, call.with_arguments(indices=named))) is None


def test_what_stands_behind_the_first_hole_is_not_attended_to(runtime: Runtime) -> None:
    call = _small("latent_attention")
    indices = call.arguments["indices"]
    indices[:, 3] = -1
    cut = torch.where(torch.arange(indices.shape[1]) < 3, indices, -1)
    expected = answer(runtime, call.with_arguments(indices=cut))
    assert first_difference(expected, answer(runtime, call)) is None
    assert set(torch_npu_functions.CALLS) == {"npu_sparse_flash_attention"}


def test_sequences_may_stand_in_any_order(runtime: Runtime) -> None:
    call = _small("dsa_select")
    backwards = torch.arange(call.tokens).flip(0)
    (whole,) = answer(runtime, call)
    (turned,) = answer(runtime, call.take(backwards))
    assert torch.equal(whole[backwards], turned)


def test_a_cache_in_two_parts_is_read_and_written_as_one(runtime: Runtime) -> None:
    backend = runtime.backend
    cache = backend.allocate_cache(2, 16, 576, torch.bfloat16)
    assert not isinstance(cache.data, torch.Tensor)
    rows = torch.randn(3, 576).bfloat16()
    slots = torch.tensor([30, 0, 17], dtype=torch.int32)
    backend.cache_write(cache, rows, slots)
    assert torch.equal(backend.cache_read(cache, slots), rows)
    untouched = torch.tensor([1, 31], dtype=torch.int32)
    assert not backend.cache_read(cache, untouched).any()


def test_the_portable_kernel_reads_a_cache_in_two_parts(runtime: Runtime) -> None:
    call = _small("latent_attention", H=3)
    found = answer(runtime, call)
    assert torch_npu_functions.CALLS == []
    expected = answer(on_host.runtime("none"), call)
    assert first_difference(expected, found) is None


@pytest.mark.parametrize("op", [*IN_EITHER, *IN_FLOAT32])
def test_a_call_without_rows_is_left_to_the_portable_kernel(op: str, runtime: Runtime) -> None:
    sizes = {
        "grouped_linear": {"P": 0, "E": 4, "K": 8, "N": 8},
        "moe_dispatch": {"T": 0, "D": 8, "E": 8, "k": 2},
        "moe_route": {"T": 0, "E": 8, "k": 2, "n_group": 1, "topk_group": 1},
        "moe_combine": {"T": 0, "D": 8, "k": 2},
        "swiglu": {"T": 0, "I": 8},
        "rope": {"T": 0, "H": 2, "R": 8, "P": 4},
    }
    call = Variant(op, Shape(sizes[op])).call()
    assert first_difference(call.reference(), answer(runtime, call)) is None
    assert torch_npu_functions.CALLS == []
