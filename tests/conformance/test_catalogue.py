"""Requirements and cases fit each other both ways, and the suite's own tools judge rightly."""

import pytest
import torch

from glm5_hal import Numerics, Weight, WeightRole, open_runtime
from glm5_hal.conformance import bounds, compare, data
from glm5_hal.conformance import catalogue as module
from glm5_hal.conformance.case import Case, Evidence, Failure
from glm5_hal.conformance.catalogue import catalogue
from glm5_hal.conformance.families import FAST_ONLY, judging
from glm5_hal.conformance.record import Recorder
from glm5_hal.conformance.reference_backend import reference_runtime
from glm5_hal.conformance.shapes import SHAPES
from glm5_hal.conformance.subjects import BUILDERS, Variant, variants
from glm5_hal.contract import OPS
from glm5_hal.exact import contract, fixed
from glm5_hal.requirements import REQUIREMENTS


def test_every_requirement_has_a_case_and_every_case_a_requirement() -> None:
    assert {case.requirement for case in catalogue().values()} == set(REQUIREMENTS)


def test_quick_cases_cover_every_requirement() -> None:
    quick = {case.requirement for case in catalogue().values() if case.quick}
    assert quick == set(REQUIREMENTS)


@pytest.mark.parametrize("numerics", Numerics)
def test_the_quick_selection_runs_the_model_in_one_dtype_a_requirement(numerics: Numerics) -> None:
    cases = [c for c in catalogue().values() if c.op == "model" and c.profile is numerics]
    quick = {c.requirement: c.id.rpartition("/")[2] for c in cases if c.quick}
    assert quick.keys() == {case.requirement for case in cases}
    assert len(quick) == sum(case.quick for case in cases)
    assert {name for name, dtype in quick.items() if dtype != "bf16"} == quick.keys() & {
        "MODEL-2",
        "MODEL-6",
    }


def test_a_requirement_without_a_case_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Case("TOPK-1/x", "TOPK-1", "topk", "function", "parity", lambda runtime: Evidence())
    stray = Case("NOPE-1/x", "NOPE-1", "topk", "function", "parity", lambda runtime: Evidence())
    monkeypatch.setattr(module.families, "all_cases", lambda: iter([one, one, stray]))
    with pytest.raises(
        ValueError, match=r"2 cases are named TOPK-1/x[\s\S]*NOPE-1, which is no"
    ) as e:
        catalogue.__wrapped__()
    assert "requirement LINEAR-1 has no case" in str(e.value)


def test_every_op_has_a_builder_and_a_bound_or_parity() -> None:
    assert set(BUILDERS) == set(OPS)


def test_every_bound_has_its_derivation() -> None:
    for rows in bounds.table().values():
        assert all(row.why for row in rows.values())


DEFINED = [
    (op, numerics)
    for op in sorted(OPS)
    for numerics in Numerics
    if OPS[op].profile in (None, numerics) and not (numerics is Numerics.EXACT and op in FAST_ONLY)
]


@pytest.mark.parametrize(("op", "numerics"), DEFINED)
def test_the_definition_answers_the_backend_contract(op: str, numerics: Numerics) -> None:
    """Each op's call runs through the door on the definitions, and gives the definition's bytes."""
    for v in variants(op, quick_only=True):
        call = v.call()
        answered = judging.answer(reference_runtime(numerics), call)
        assert compare.first_difference(call.defined(numerics), answered) is None


def test_a_definition_is_the_op_files_own() -> None:
    v = next(v for v in variants("linear", quick_only=True))
    call = v.call()
    x, w = call.arguments["x"], call.arguments["w"].tensor
    weight = Weight(WeightRole.LINEAR, tuple(w.shape), w.dtype, w)
    rule = OPS["linear"].definition(Numerics.EXACT)(x, weight)
    assert compare.first_difference((rule,), call.defined(Numerics.EXACT)) is None
    assert compare.first_difference((rule,), call.reference()) is not None


# --- the exact profile ---


def cases_of(profile: Numerics) -> list[Case]:
    return [case for case in catalogue().values() if case.profile is profile]


def test_every_case_of_both_profiles_has_a_twin() -> None:
    exact = {case.id for case in cases_of(Numerics.EXACT)}
    alone = [case for case in cases_of(Numerics.FAST) if f"exact/{case.id}" not in exact]
    assert {case.op for case in alone if case.requirement not in FAST_ONLY} == {"mla_expanded"}
    assert all({case.op, case.requirement} & FAST_ONLY.keys() for case in alone)
    assert all(name.startswith("exact/") for name in exact)


def test_requirements_of_one_profile_are_checked_in_it_alone() -> None:
    for case in catalogue().values():
        assert REQUIREMENTS[case.requirement].profile in (None, case.profile)
        assert case.op not in OPS or OPS[case.op].profile in (None, case.profile)


def test_every_op_has_its_bytes_compared_on_every_shape() -> None:
    judged = {(c.op, c.id.split("/")[3]) for c in cases_of(Numerics.EXACT) if "bytes" in c.id}
    for op, shapes in SHAPES.items():
        if op != "mla_expanded":
            assert {(op, shape.label) for shape in shapes} <= judged


def test_bounds_of_fixing_see_a_digit_less() -> None:
    v = Variant("linear", next(s for s in SHAPES["linear"] if s.quick), "normal", "fp32")
    call = v.call()
    exact, bound = bounds.of(call, Numerics.EXACT)
    worst = bounds.judge(call, exact, bound, call.defined(Numerics.EXACT)).worst
    assert worst is not None
    assert worst < 1
    x, w = call.arguments["x"], call.arguments["w"].tensor
    fewer = contract(fixed(x, 2), fixed(w, 3))
    with pytest.raises(Failure, match="beyond the bound"):
        bounds.judge(call, exact, bound, (fewer,))


def test_digests_of_the_exact_profile_see_the_bits_of_a_nan() -> None:
    usual = torch.tensor([torch.nan])
    other = torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32)
    assert judging.digests((usual,)) == judging.digests((other,))
    assert judging.raw_digests((usual,)) != judging.raw_digests((other,))
    assert judging.raw_digests((usual,)) == judging.digests((usual,))


def test_data_is_frozen() -> None:
    made = torch.cat([data.values(kind, "frozen", (64,), torch.float32) for kind in data.KINDS])
    assert judging.digest(made) == FROZEN


FROZEN = "d641aadf43983d0bd60d2943400302dee8d18e2e4545904122abadb712c76310"


def test_difference_names_the_first_element_and_both_patterns() -> None:
    expected = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = expected.clone()
    found[1, 0] = torch.nextafter(found[1, 0], torch.tensor(9.0))
    found[1, 1] = 5.0
    difference = compare.first_difference((expected,), (found,))
    assert difference is not None
    assert difference.index == (1, 0)
    assert difference.ulp == 1
    assert difference.differing == 2
    assert difference.expected.startswith("0x40400000")
    assert difference.found.startswith("0x40400001")


@pytest.mark.parametrize(("a", "b", "ulp"), [(0.0, -0.0, 0), (1.0, -1.0, 2 * 0x3F800000)])
def test_ulp_distance_crosses_zero(a: float, b: float, ulp: int) -> None:
    assert compare.ulp_distance(torch.tensor(a), torch.tensor(b)) == ulp


def test_a_case_that_would_accept_zeros_fails() -> None:
    v = next(v for v in variants("linear", quick_only=True))
    call = v.call()
    exact, bound = bounds.of(call)
    wide = tuple(b * 1e9 for b in bound)
    with pytest.raises(Failure, match="too weak: it would accept zeros"):
        bounds.judge(call, exact, wide, tuple(e.float() for e in exact))


def test_bounds_are_tight_enough_to_see_a_bfloat16_accumulator() -> None:
    v = Variant("linear", next(v.shape for v in variants("linear", quick_only=True)), dtype="bf16")
    call = v.call()
    x, w = call.arguments["x"], call.arguments["w"].tensor
    total = torch.zeros(x.shape[0], w.shape[0], dtype=torch.bfloat16)
    for k in range(x.shape[1]):
        total += x[:, k : k + 1] * w[:, k]
    exact, bound = bounds.of(call)
    with pytest.raises(Failure, match="beyond the bound"):
        bounds.judge(call, exact, bound, (total,))


def test_recorder_sees_the_shapes_of_op_calls() -> None:
    runtime = open_runtime("cpu")
    recorder = Recorder()
    runtime.observers.append(recorder)
    v = next(v for v in variants("latent_attention", quick_only=True))
    judging.answer(runtime, v.call())
    assert recorder.shapes == {"latent_attention": [dict(v.shape.sizes)]}
