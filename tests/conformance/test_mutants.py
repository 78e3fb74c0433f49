"""The suite fails when it should: every mutant is found, and by its own requirement."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from glm5_hal import Backend, Numerics
from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.conformance.case import Status
from glm5_hal.conformance.catalogue import catalogue
from glm5_hal.conformance.errors import AskedError
from glm5_hal.conformance.families.repeat import _Recipe
from glm5_hal.conformance.judge import judge
from glm5_hal.conformance.mutants import (
    Finding,
    Mutant,
    MutationReport,
    Outcome,
    exact_attending,
    exact_gating,
    exact_norming,
    exact_sums,
    exact_turning,
    mutants,
    run,
    summary,
)
from glm5_hal.conformance.mutants.mutant import mutant, runtime_of
from glm5_hal.conformance.mutants.runner import cases_for
from glm5_hal.contract import OPS, Kind
from glm5_hal.requirements import REQUIREMENTS

ALL = list(mutants().values())

RAISING = frozenset({"combine-needs-shared"})
"""Mutants whose fault is an exception; any other that raises is broken in another way."""

FAST = (
    "grouped-linear-few-rows",
    "linear-zeros",
    "dispatch-order-of-arrival",
    "reference-after-error",
    "rms-norm-unrounded-sum",
    "route-weights-by-score",
    "shared-workspace",
    "sums-by-thread",
    "topk-highest-index",
    "fixing-clamped",
    "rope-contracted",
    "mode-of-its-own",
    "limb-carry-lost",
)


@pytest.fixture(scope="module")
def fast() -> Iterator[MutationReport]:
    """Some mutants, judged in this process, which has one thread: calls this small want no more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield run(FAST, workers=1)
    torch.set_num_threads(threads)


def finding(report: MutationReport, name: str) -> Finding:
    """What the suite found of one mutant."""
    return next(found for found in report.findings if found.mutant == name)


# --- the catalogue ---


def test_there_are_enough_mutants() -> None:
    assert len(ALL) >= 34
    assert len({m.backend_class for m in ALL}) == len(ALL)


@pytest.mark.parametrize("name", mutants())
def test_a_mutant_is_described_and_has_one_place(name: str) -> None:
    found = mutants()[name]
    assert found.name == name
    assert found.backend_class.name == f"mutant-{name}"
    assert found.requirement in REQUIREMENTS
    assert found.story[0].isupper()
    assert found.story.endswith(".")
    assert len(found.ops) <= 1, "one fault lies in one op"
    assert any(case.requirement == found.requirement for case in cases_for(found))


def test_every_requirement_has_a_mutant() -> None:
    assert sorted(set(REQUIREMENTS) - {m.requirement for m in ALL}) == []


@pytest.mark.parametrize("op", [op.name for op in OPS.values() if op.kind is Kind.PRIMITIVE])
def test_every_primitive_op_has_a_mutant(op: str) -> None:
    assert any(op in m.ops for m in ALL)


def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="two mutants are named linear-zeros"):
        mutant("linear-zeros", "LINEAR-1", "Twice.")(CpuBackend)
    assert CpuBackend.name == "cpu"


def test_the_cases_of_a_mutant() -> None:
    mine = cases_for(mutants()["topk-highest-index"])
    assert {case.op for case in mine} == {"topk"}
    asked = {case.requirement for case in mine}
    assert {"TOPK-1", "RUN-1", "GUARD-4"} <= asked
    assert not asked & {"RUN-2", "RUN-6"}, "costly, and not claimed"
    of_model = cases_for(mutants()["kernel-for-large-batches"])
    assert {case.requirement for case in of_model if case.op == "model"} == {"MODEL-1"}
    outside = cases_for(mutants()["copy-not-awaited"])
    assert {case.requirement for case in outside} == {"RUN-1"}
    assert {case.op for case in outside} == {op.name for op in OPS.values() if op.profile is None}
    exact = cases_for(mutants()["rope-contracted"])
    assert {case.profile for case in exact} == {Numerics.EXACT}
    assert {case.requirement for case in exact} >= {"ROPE-EXACT-1", "EXACT-READ-1"}
    assert all(REQUIREMENTS[case.requirement].profile is Numerics.EXACT for case in exact)


# --- some of them, in this process ---


def test_the_fast_ones_are_killed(fast: MutationReport) -> None:
    assert fast.problems == []
    assert fast.ok
    assert fast.killed == len(FAST)
    assert fast.control_cases > 100
    assert [found.mutant for found in fast.findings] == list(FAST)


def test_a_batch_dependence_names_the_batch(fast: MutationReport) -> None:
    own = finding(fast, "grouped-linear-few-rows").own
    assert own is not None
    assert own.message.startswith("a row depends on how many rows its expert or another has")
    assert "alone" in own.change
    assert own.difference is not None
    assert own.difference["note"] == (
        "low bits only: sums taken in another order, or rounded at another place"
    )


def test_zeros_are_called_zeros(fast: MutationReport) -> None:
    own = finding(fast, "linear-zeros").own
    assert own is not None
    assert "is 0.0, exact" in own.message
    assert own.difference is not None
    differing, total = own.difference["differing"], own.difference["total"]
    assert isinstance(differing, int)
    assert isinstance(total, int)
    assert differing > 0.99 * total


def test_a_tie_is_called_a_tie(fast: MutationReport) -> None:
    own = finding(fast, "topk-highest-index").own
    assert own is not None
    assert own.message.startswith("the chosen set is another")
    assert own.hint.startswith("among equal scores the lowest index wins")
    assert own.difference is not None
    assert own.difference["index"] == [0, 0]


def test_a_rounding_is_placed(fast: MutationReport) -> None:
    own = finding(fast, "rms-norm-unrounded-sum").own
    assert own is not None
    assert own.id.endswith("/bf16"), "in float32 the sum is the rounded one"
    assert own.hint == "the norm was taken of the unrounded sum"


def test_order_is_told_from_content(fast: MutationReport) -> None:
    own = finding(fast, "dispatch-order-of-arrival").own
    assert own is not None
    assert own.message.startswith("not the bytes of the reference")
    assert finding(fast, "dispatch-order-of-arrival").also == ("DISPATCH-2",)
    assert finding(fast, "route-weights-by-score").own is not None


def test_conditions_are_named(fast: MutationReport) -> None:
    swallowed = finding(fast, "reference-after-error").own
    load = finding(fast, "shared-workspace").own
    threads = finding(fast, "sums-by-thread").own
    assert swallowed is not None
    assert load is not None
    assert threads is not None
    assert swallowed.message == "an error inside the op was swallowed"
    assert "under load" in load.change
    assert "threads instead of" in threads.change


def test_the_summary_is_plain(fast: MutationReport) -> None:
    plain = json.loads(json.dumps(summary(fast)))
    assert plain["ok"] is True
    assert plain["killed"] == plain["mutants"] == len(FAST)
    assert plain["control"]["failures"] == []
    first = plain["findings"][0]
    assert first["mutant"] == FAST[0]
    assert first["outcome"] == "killed"
    assert first["found"]["case"].startswith("GROUPED-LINEAR-2/")


def test_an_exact_difference_names_both_patterns(fast: MutationReport) -> None:
    own = finding(fast, "rope-contracted").own
    assert own is not None
    assert own.id == "exact/EXACT-ROUNDING-1/parity-fused-fp32/rope"
    assert own.message.startswith("not the bytes of the definition: output 0 at [")
    assert own.hint == "a * b + c in one rounding instead of two"
    assert own.difference is not None
    assert str(own.difference["expected"]).startswith("0x")
    assert own.difference["ulp"] is not None


def test_a_mode_and_a_number_of_ranks_are_named(fast: MutationReport) -> None:
    mode, ranks = (finding(fast, name).own for name in ("mode-of-its-own", "limb-carry-lost"))
    assert mode is not None
    assert ranks is not None
    assert mode.change == "mode fused instead of plain"
    assert finding(fast, "limb-carry-lost").also == ("EXACT-MODES-1",), "by its golden digest"


@pytest.mark.parametrize(
    ("base", "op"),
    [
        (exact_sums.Summing, "linear"),
        (exact_turning.Turning, "rope"),
        (exact_norming.Normed, "rms_norm"),
        (exact_gating.Gated, "swiglu"),
        (exact_attending.Attending, "latent_attention"),
    ],
)
def test_what_exact_mutants_are_made_of_is_sound(base: type[Backend], op: str) -> None:
    """So that a mutant is found for its fault, and for nothing else."""
    runtime = runtime_of(base)
    blocks = [
        case
        for case in catalogue().values()
        if case.op == op and case.quick and "EXACT" in case.requirement
    ]
    results = [judge(case, runtime) for case in blocks]
    assert [f"{r.id}: {r.message}" for r in results if r.status is not Status.PASS] == []


# --- a report that is not good ---


def test_a_survivor_is_a_problem(fast: MutationReport) -> None:
    killed = fast.findings[0]
    survived = replace(killed, failures=())
    missed = replace(killed, requirement="LINEAR-1")
    assert survived.outcome is Outcome.SURVIVED
    assert missed.outcome is Outcome.MISSED
    for bad in (survived, missed):
        report = replace(fast, findings=(bad,))
        assert not report.ok
        assert report.killed == 0
        assert "did not find it" in report.problems[0]


def test_a_failing_control_is_a_problem(fast: MutationReport) -> None:
    report = replace(fast, control_failures=fast.findings[0].failures[:1])
    assert not report.ok
    assert report.problems[0].startswith("the backend without a fault fails GROUPED-LINEAR-2/")


def test_no_mutant_is_a_problem(fast: MutationReport) -> None:
    assert replace(fast, findings=()).problems == ["no mutant ran"]


def test_an_unknown_name_gets_a_hint() -> None:
    with pytest.raises(AskedError, match="no mutant 'linear-zero'; close: linear-zeros"):
        run(["linear-zero"])
    with pytest.raises(AskedError, match="0 workers"):
        run(FAST, workers=0)


# --- an unregistered backend in a fresh process ---


def test_a_fresh_process_is_told_the_class() -> None:
    chosen: Mutant = mutants()["order-of-the-process"]
    runtime = runtime_of(chosen.backend_class)
    again = _Recipe.of(runtime).open()
    assert type(again.backend) is chosen.backend_class
    assert again.plan == runtime.plan


# --- all of them ---


@pytest.mark.slow
def test_every_mutant_is_killed_by_its_own_requirement() -> None:
    seen: list[int] = []
    report = run(workers=2, progress=lambda done, total, found: seen.append(done))
    assert report.problems == []
    assert [found.mutant for found in report.findings] == list(mutants())
    assert seen == list(range(len(ALL) + 1))
    raised = {
        found.mutant for found in report.findings if found.own and "(raised " in found.own.message
    }
    assert raised == RAISING
