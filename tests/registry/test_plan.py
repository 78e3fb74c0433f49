"""The plan: decided once, never changed, and hashed."""

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from stub_backends import Bare, Declared, Flaky, Install, Mover
from torch import Tensor

from glm5_hal import (
    Backend,
    BackendUnavailable,
    Capabilities,
    Numerics,
    Runtime,
    SelectionError,
    WeightRole,
    open_runtime,
    ops,
)
from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.contract import CONTRACT_VERSION, OPS, Kind
from glm5_hal.plan import Implementation, Plan, make_plan, resolve


def plan_of(cls: Any, index: int = 0, numerics: Numerics = Numerics.FAST) -> Plan:
    return make_plan(cls, index, numerics)


def test_every_op_has_an_implementation() -> None:
    plan = plan_of(CpuBackend)
    assert set(plan.ops) == set(OPS)
    for name, op in OPS.items():
        if op.profile is Numerics.EXACT:
            reason = "not part of the fast profile"
            assert plan.ops[name] == Implementation("unsupported", reason)
        else:
            assert plan.ops[name].source in ("native", "default")
    assert plan.ops["linear"] == Implementation(
        "native", "glm5_hal.backends.cpu.backend.CpuBackend.linear"
    )
    assert plan.ops["mla"] == Implementation("default", "glm5_hal.ops.mla.absorbed")
    assert plan.contract_version == CONTRACT_VERSION
    assert plan.substituted == ()


def test_what_is_not_there_is_unsupported_with_its_reason() -> None:
    plan = plan_of(Declared)
    assert plan.ops["mla_expanded"] == Implementation("unsupported", "too little memory")
    assert plan.ops["linear"] == Implementation("unsupported", "not implemented")
    for name, op in OPS.items():
        assert plan.ops[name].source == ("default" if op.kind is Kind.COMPOSITE else "unsupported")


def test_an_inherited_op_is_native_under_the_name_of_its_class() -> None:
    class Later(Mover):
        name = "later"

    assert plan_of(Later).ops["embedding"].where == "stub_backends.Mover.embedding"


def test_a_plan_cannot_be_changed() -> None:
    plan: Any = plan_of(CpuBackend)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.backend = "other"
    with pytest.raises(TypeError):
        plan.ops["linear"] = Implementation("substitute", "cpu")
    with pytest.raises(TypeError):
        plan.versions["torch"] = "0"
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.ops["linear"].source = "substitute"


def test_a_plan_is_plain_data() -> None:
    plan = plan_of(CpuBackend)
    data = json.loads(json.dumps(plan.to_dict()))
    assert data["backend"] == "cpu"
    assert data["numerics"] == "fast"
    assert data["ops"]["mla"]["source"] == "default"
    assert {"glm5-hal", "python", "machine", "torch"} <= set(data["versions"])


def test_equal_decisions_have_equal_hashes() -> None:
    assert plan_of(CpuBackend).hash == plan_of(CpuBackend).hash
    assert len(plan_of(CpuBackend).hash) == 64
    assert plan_of(Bare, 0).hash == plan_of(Bare, 2).hash  # which device is not what runs


def test_the_hash_is_the_same_in_another_process() -> None:
    code = (
        "import sys, torch; torch.set_num_threads(int(sys.argv[1]))\n"
        "import glm5_hal; print(glm5_hal.open_runtime('cpu').plan.hash)"
    )
    environ = {**os.environ, "PYTHONHASHSEED": "12345"}
    command = [sys.executable, "-c", code, str(torch.get_num_threads())]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == open_runtime("cpu").plan.hash


def test_another_implementation_changes_the_hash() -> None:
    def renamed(**body: Any) -> Any:
        return type("Bare", (Bare,), {"__module__": "stub_backends", **body})

    before = plan_of(Bare).hash
    assert plan_of(renamed()).hash == before
    hashes = {
        before,
        plan_of(renamed(swiglu=Flaky.swiglu)).hash,
        plan_of(renamed(embedding=Mover.embedding)).hash,
        plan_of(renamed(versions=classmethod(lambda cls: {"driver": "1.1"}))).hash,
        plan_of(renamed(name="other")).hash,
        plan_of(Bare, numerics=Numerics.EXACT).hash,
        make_plan(Bare, 0, Numerics.FAST, substitute=True).hash,
    }
    assert len(hashes) == 7


def test_an_unavailable_backend_says_why(install: Install) -> None:
    install(absent="stub_backends:Absent")
    with pytest.raises(BackendUnavailable) as caught:
        resolve("absent")
    assert (caught.value.name, caught.value.reason) == ("absent", "no device file")
    assert "backend 'absent' cannot run here: no device file." in str(caught.value)


@pytest.mark.parametrize(("text", "last"), [("bare:3", 2), ("bare:99", 2), ("cpu:1", 0)])
def test_an_index_beyond_the_devices_is_an_error(install: Install, text: str, last: int) -> None:
    install(bare="stub_backends:Bare")
    with pytest.raises(SelectionError, match=f"={text}: .* the index is 0 to {last}"):
        resolve(text)


def test_an_index_is_the_backends(install: Install) -> None:
    install(bare="stub_backends:Bare")
    runtime = open_runtime("bare:2")
    assert runtime.plan.index == runtime.backend.index == 2


@pytest.mark.parametrize("numerics", ["exakt", "fastest", "FAST"])
def test_a_profile_that_is_not_offered_is_an_error(
    monkeypatch: pytest.MonkeyPatch, numerics: str
) -> None:
    expected = f"GLM5_HAL_NUMERICS={numerics}: backend 'cpu' offers exact, fast"
    with pytest.raises(SelectionError, match=expected):
        resolve("cpu", numerics)
    monkeypatch.setenv("GLM5_HAL_NUMERICS", numerics)
    with pytest.raises(SelectionError, match=expected):
        resolve("cpu")
    plan, _ = resolve("cpu", "fast")
    assert plan.numerics is Numerics.FAST


class Moded(Mover):
    """One backend, two ways of computing, and a class of its own for the exact profile."""

    name = "moded"
    capabilities = Capabilities(profiles=frozenset(Numerics))

    @classmethod
    def in_profile(cls, numerics: Numerics) -> type[Backend]:
        return cls if numerics is Numerics.FAST else ModedExact

    @classmethod
    def modes(cls) -> tuple[str, ...]:
        return ("wide", "narrow")

    def use_mode(self, mode: str) -> None:
        self._used = mode


class ModedExact(Moded):
    """The same, in the exact profile."""


def test_each_profile_may_have_a_class_of_its_own(install: Install) -> None:
    install(moded="test_plan:Moded")
    assert resolve("moded", "fast")[1] is Moded
    assert resolve("moded", "exact")[1] is ModedExact


def test_the_first_mode_is_taken_unless_the_environment_names_one(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(moded="test_plan:Moded")
    first = open_runtime("moded")
    monkeypatch.setenv("GLM5_HAL_MODE", "narrow")
    second = open_runtime("moded")
    assert (first.plan.mode, second.plan.mode) == ("wide", "narrow")
    assert [vars(runtime.backend)["_used"] for runtime in (first, second)] == ["wide", "narrow"]
    assert first.plan.hash != second.plan.hash


@pytest.mark.parametrize(
    ("backend", "expected"),
    [("moded", "its modes are wide, narrow"), ("bare", "it has no modes")],
)
def test_an_unknown_mode_is_an_error(
    install: Install, monkeypatch: pytest.MonkeyPatch, backend: str, expected: str
) -> None:
    install(moded="test_plan:Moded", bare="stub_backends:Bare")
    monkeypatch.setenv("GLM5_HAL_MODE", "avx9")
    with pytest.raises(SelectionError, match=f"GLM5_HAL_MODE=avx9: .*: {expected}"):
        resolve(backend)


def test_nothing_switches_after_an_exception() -> None:
    """The error comes through, and the next call goes to the same implementation."""
    backend = Flaky()
    runtime = Runtime(plan_of(Flaky), backend)
    before = runtime.plan
    x = backend.to_device(torch.zeros(1, 4))
    with runtime:
        with pytest.raises(RuntimeError, match="device lost"):
            ops.swiglu(x)
        assert backend.to_host(ops.swiglu(x)).tolist() == [[2.0, 2.0]]
    assert runtime.plan is before
    assert runtime.plan.ops["swiglu"].where == "stub_backends.Flaky.swiglu"


def test_nothing_switches_in_a_composite() -> None:
    """A failing fused kernel does not become its default."""

    class Fused(CpuBackend):
        name = "fused"

        def moe_experts(
            self,
            x: Tensor,
            ids: Tensor,
            weights: Tensor,
            w_gate_up: Any,
            w_down: Any,
            shared: Tensor | None = None,
        ) -> Tensor:
            raise RuntimeError("kernel failed")

    runtime = Runtime(plan_of(Fused), Fused())
    assert runtime.plan.ops["moe_experts"].source == "native"
    ids, weights = torch.zeros(2, 1, dtype=torch.int32), torch.ones(2, 1)
    up = runtime.prepare_weight(WeightRole.EXPERTS, torch.zeros(1, 4, 3))
    down = runtime.prepare_weight(WeightRole.EXPERTS, torch.zeros(1, 3, 2))
    with runtime:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="kernel failed"):
                ops.moe_experts(torch.zeros(2, 3), ids, weights, up, down)
