"""Who takes a fused op, when its library is imported, and what runs where it cannot be called."""

import logging
import sys
from collections.abc import Callable
from typing import Any

import fused_inputs as given
import pytest
import stand_ins
import torch
from fused_vendors import VENDORS, put_libraries

from glm5_hal import Level, Numerics, Runtime, WeightRole, ops
from glm5_hal.backends.torch_triton.backend import missing_triton
from glm5_hal.errors import BackendUnavailable, SelectionError
from glm5_hal.plan import Plan, make_plan

# needs the extra [triton], which `nox` has; the reason names what is missing
if missing := missing_triton():
    pytest.skip(missing, allow_module_level=True)
from pretended import pretended

from glm5_hal.conformance.reference_backend import reference_runtime

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    from glm5_hal.registry import load

    load("triton-interpret").in_profile(Numerics.EXACT)  # from here on kernels are interpreted
    for vendor in VENDORS:
        monkeypatch.delenv(variable(vendor), raising=False)


def variable(vendor: str) -> str:
    return f"GLM5_HAL_{vendor.upper()}_FUSED"


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put stand-ins of all a vendor's libraries in place."""
    return lambda vendor: put_libraries(vendor, monkeypatch)


def planned(vendor: str, numerics: Numerics = Numerics.FAST, **changes: Any) -> tuple[Plan, Any]:
    cls = pretended(vendor, **changes).in_profile(numerics)
    return make_plan(cls, 0, numerics), cls


def taken(plan: Plan, vendor: str) -> set[str]:
    """Ops that the plan gives to the vendor's libraries."""
    module = f"glm5_hal.backends.{vendor}.fused."
    return {name for name, one in plan.ops.items() if one.where.startswith(module)}


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("value", [None, "none"])
def test_nothing_is_taken_or_imported_unasked(
    vendor: str, value: str | None, monkeypatch: pytest.MonkeyPatch, imported: list[str]
) -> None:
    if value is not None:
        monkeypatch.setenv(variable(vendor), value)
    plan, cls = planned(vendor)
    assert not taken(plan, vendor)
    assert Level.BATCH_INVARIANT in cls.capabilities.claims[Numerics.FAST]
    advice = [text for text in cls.advice() if variable(vendor) in text]
    assert len(advice) == len(VENDORS[vendor])
    assert all("nobody has shown that it keeps" in text for text in advice)
    cls()
    assert imported == []


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_exact_profile_never_has_them(
    vendor: str, monkeypatch: pytest.MonkeyPatch, imported: list[str]
) -> None:
    usual, _ = planned(vendor, Numerics.EXACT)
    monkeypatch.setenv(variable(vendor), "all")
    plan, cls = planned(vendor, Numerics.EXACT)
    assert plan.ops == usual.ops
    assert cls.capabilities.claims[Numerics.EXACT] >= {Level.CROSS_BACKEND}
    assert cls.advice() == ()
    assert imported == []


@pytest.mark.parametrize("vendor", VENDORS)
def test_all_takes_all_and_claims_nothing(
    vendor: str, monkeypatch: pytest.MonkeyPatch, install: Callable[[str], None]
) -> None:
    install(vendor)
    monkeypatch.setenv(variable(vendor), "all")
    plan, cls = planned(vendor)
    assert taken(plan, vendor) == {fused.op for fused in VENDORS[vendor]}
    assert cls.capabilities.claims[Numerics.FAST] == frozenset()
    packages = {fused.library.package for fused in VENDORS[vendor]}
    assert packages <= plan.versions.keys()
    assert not [text for text in cls.advice() if variable(vendor) in text]


def test_a_list_takes_what_it_names(
    monkeypatch: pytest.MonkeyPatch, install: Callable[[str], None], imported: list[str]
) -> None:
    """And no other library is imported: Hygon's FlashMLA is not asked for."""
    install("hygon")
    for name in ("flash_mla", "flash_mla.flash_mla_interface"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv(variable("hygon"), "topk, moe_route")
    plan, cls = planned("hygon")
    assert taken(plan, "hygon") == {"topk", "moe_route"}
    assert plan.ops["topk"].where == "glm5_hal.backends.hygon.fused.topk"
    assert plan.ops["dsa_select"].source == "default"
    assert plan.versions["lightop"] == "0.6.0+das.dtk2604"
    assert "flash_mla" not in plan.versions
    assert len([text for text in cls.advice() if variable("hygon") in text]) == 2
    assert imported == []


def test_what_repeats_by_its_source_is_claimed_to(
    monkeypatch: pytest.MonkeyPatch, install: Callable[[str], None]
) -> None:
    install("moore_threads")
    monkeypatch.setenv(variable("moore_threads"), "moe_route")
    _, cls = planned("moore_threads")
    assert cls.capabilities.claims[Numerics.FAST] == {Level.RUN_TO_RUN}


@pytest.mark.parametrize("value", ["topk2", "topk,", "All", "topk,latent"])
@pytest.mark.parametrize("numerics", list(Numerics))
def test_another_word_is_an_error(
    value: str, numerics: Numerics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable("kunlun"), value)
    wanted = r"is no fused op of backend 'kunlun'; it has latent_attention, topk, moe_route, swiglu"
    with pytest.raises(SelectionError, match=f"GLM5_HAL_KUNLUN_FUSED={value}: .*{wanted}"):
        planned("kunlun", numerics)


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_library_that_is_not_there_is_named(vendor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for fused in VENDORS[vendor]:
        monkeypatch.setenv(variable(vendor), fused.op)
        module = fused.function.partition(":")[0]
        wanted = (
            rf"asks for {fused.op}: importing {module} failed .*install {fused.library.package}"
        )
        with pytest.raises(BackendUnavailable, match=wanted):
            planned(vendor)


def test_a_version_whose_calls_are_not_known_is_refused(
    monkeypatch: pytest.MonkeyPatch, install: Callable[[str], None]
) -> None:
    install("hygon")
    monkeypatch.setattr(sys.modules["lightop"], "__version__", "0.5.1")
    monkeypatch.setenv(variable("hygon"), "topk")
    wanted = "lightop 0.5.1 is installed, its calls are known from 0.6 to below 0.7"
    with pytest.raises(BackendUnavailable, match=wanted):
        planned("hygon")


def test_another_signature_is_refused(
    monkeypatch: pytest.MonkeyPatch, install: Callable[[str], None]
) -> None:
    """Where no version is published, the signature is the gate."""
    install("cambricon")
    monkeypatch.setenv(variable("cambricon"), "moe_route")
    module = sys.modules["torch_mlu_ops"]
    monkeypatch.setattr(module, "moe_sigmoid_topk", lambda input, topk, mask: None)
    with pytest.raises(BackendUnavailable, match=r"takes \(input, topk, mask\), without route_sc"):
        planned("cambricon")
    monkeypatch.setattr(module, "moe_sigmoid_topk", max)  # shows no signature
    with pytest.raises(BackendUnavailable, match="shows no signature, and which versions of torch"):
        planned("cambricon")


def test_a_function_or_one_besides_it_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, install: Callable[[str], None]
) -> None:
    install("metax")
    monkeypatch.setenv(variable("metax"), "index_scores")
    monkeypatch.delattr(sys.modules["deep_gemm"], "get_paged_mqa_logits_metadata")
    with pytest.raises(BackendUnavailable, match=r"deep_gemm lacks what is called: .*metadata"):
        planned("metax")


def test_an_ops_schema_is_a_signature(
    monkeypatch: pytest.MonkeyPatch, install: Callable[[str], None]
) -> None:
    install("metax")
    library = torch.library.Library("fused_test_moe", "DEF")
    library.define("old(Tensor scores, int n_group) -> Tensor")
    library.define(
        "new(Tensor scores, int n_group, int topk_group, int topk, bool renormalize, "
        "float routed_scaling_factor, Tensor bias, int scoring_func) -> (Tensor, Tensor)"
    )
    monkeypatch.setenv(variable("metax"), "moe_route")
    monkeypatch.setattr(torch.ops._moe_C, "grouped_topk", torch.ops.fused_test_moe.new)
    assert taken(planned("metax")[0], "metax") == {"moe_route"}
    monkeypatch.setattr(torch.ops._moe_C, "grouped_topk", torch.ops.fused_test_moe.old)
    with pytest.raises(BackendUnavailable, match=r"takes \(scores, n_group\), without topk_group"):
        planned("metax")


@pytest.mark.parametrize(
    ("vendor", "op", "changes", "reason"),
    [
        ("moore_threads", "moe_route", {"capability": (2, 2)}, "MATE takes"),
        ("hygon", "index_scores", {"architecture": "gfx938:sramecc+"}, "device 0 is gfx938"),
    ],
)
def test_a_device_without_the_function_is_named(
    vendor: str,
    op: str,
    changes: dict[str, Any],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    imported: list[str],
) -> None:
    monkeypatch.setenv(variable(vendor), op)
    with pytest.raises(BackendUnavailable, match=reason):
        planned(vendor, **changes)
    assert imported == []


# --- in a runtime ---


def runtime(vendor: str) -> Runtime:
    plan, cls = planned(vendor)
    return Runtime(plan, cls())


def test_a_taken_op_answers_in_a_runtime_and_selection_follows_it(
    monkeypatch: pytest.MonkeyPatch, install: Callable[[str], None]
) -> None:
    """DSA-SELECT-1: the selection is the top-k of the scores of the same backend."""
    install("hygon")
    called = []

    def watched(*arguments: Any) -> None:
        called.append(arguments[-1])
        stand_ins.top_k_per_row_prefill(*arguments)

    monkeypatch.setattr(sys.modules["lightop.attention"], "top_k_per_row_prefill", watched)
    monkeypatch.setenv(variable("hygon"), "topk,index_scores")
    q, w, keys, seen, scale = given.index()
    with runtime("hygon"):
        found = ops.dsa_select(q, w, keys, seen, scale, 70)
    with reference_runtime():
        wanted = ops.dsa_select(q, w, keys, seen, scale, 70)
    assert torch.equal(found, wanted)
    assert called == [70]


PORTABLE = [
    ("cambricon", "swiglu", lambda: (given.randn(3, 16, dtype=torch.float32),), "takes bfloat16"),
    ("kunlun", "swiglu", lambda: (given.randn(3, 16, dtype=torch.float32),), "takes bfloat16"),
    ("moore_threads", "moe_route", lambda: given.route(experts=32), "no kernel of its own"),
    ("metax", "index_scores", lambda: given.index(page_size=16), "pages of 16 rows"),
]


@pytest.mark.parametrize(("vendor", "op", "arguments", "reason"), PORTABLE)
def test_what_a_library_cannot_take_runs_the_portable_kernel(
    vendor: str,
    op: str,
    arguments: Callable[[], Any],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    install: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    values = arguments()
    portable = getattr(runtime(vendor).backend, op)(*values)
    install(vendor)
    monkeypatch.setenv(variable(vendor), op)
    backend = runtime(vendor).backend
    with caplog.at_level(logging.WARNING, "glm5_hal"):
        found = getattr(backend, op)(*values)
        getattr(backend, op)(*values)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert said[0].startswith(f"{vendor}: {op} runs the portable kernel: ")
    assert reason in said[0]
    for one, other in zip(
        found if isinstance(found, tuple) else (found,),
        portable if isinstance(portable, tuple) else (portable,),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_an_exception_of_the_library_reaches_the_caller(
    monkeypatch: pytest.MonkeyPatch, install: Callable[[str], None]
) -> None:
    """GUARD-4: it is raised, and the next call goes to the library again."""
    install("cambricon")
    calls = []

    def broken(input: Any, act_mode: str, is_gated: bool) -> Any:
        calls.append(1)
        raise RuntimeError("no such configuration")

    monkeypatch.setattr(sys.modules["torch_mlu_ops"], "active", broken)
    monkeypatch.setenv(variable("cambricon"), "swiglu")
    backend = runtime("cambricon").backend
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no such configuration"):
            backend.swiglu(given.randn(2, 8))
    assert len(calls) == 2


def test_weights_and_caches_are_the_backends_own(
    monkeypatch: pytest.MonkeyPatch, install: Callable[[str], None]
) -> None:
    """What `prepare_weight` and `allocate_cache` keep is what the functions are given."""
    install("moore_threads")
    monkeypatch.setenv(variable("moore_threads"), "all")
    backend = runtime("moore_threads").backend
    x, w, offsets = given.grouped()
    kept = backend.prepare_weight(WeightRole.EXPERTS, w.tensor)
    definition = reference_runtime().backend
    torch.testing.assert_close(
        backend.grouped_linear(x, kept, offsets),
        definition.grouped_linear(x, w, offsets),
        rtol=2**-7,
        atol=2**-14,
    )
    q_latent, q_rope, rows, seen, scale, indices = given.attention()
    cache = backend.allocate_cache(rows.pages, rows.page_size, rows.width, rows.dtype)
    backend.cache_write(cache, rows.tensor, torch.arange(rows.tensor.shape[0]).int())
    torch.testing.assert_close(
        backend.latent_attention(q_latent, q_rope, cache, seen, scale, indices),
        definition.latent_attention(q_latent, q_rope, rows, seen, scale, indices),
        rtol=2**-7,
        atol=2**-14,
    )
