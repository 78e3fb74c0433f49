"""From a fresh package to a first op that passes: little is touched, nothing is vague."""

import difflib
import importlib
from pathlib import Path

import pytest
import torch
from generated import LINEAR_NARROW, TOPK, TOPK_LATE_TIES, Make, opened, quick

from glm5_hal import BackendUnavailable, Unsupported, ops
from glm5_hal.contract import OPS, Kind
from glm5_hal.plan import resolve
from glm5_hal.porting.skeleton import Base
from glm5_hal.porting.unwritten import place_of
from glm5_hal.registry import load

UNDER_WAY = [Base.BLANK, Base.TORCH_DEVICE]
SCORES = torch.tensor([[0.0, 1.0, 0.0], [3.0, 2.0, 1.0]])
LENGTHS = torch.tensor([3, 2], dtype=torch.int32)


@pytest.mark.parametrize("base", UNDER_WAY)
def test_a_fresh_backend_can_be_selected_and_names_what_is_missing(base: Base, make: Make) -> None:
    package = make(base)
    runtime = opened(package.name)
    assert runtime.plan.backend == package.name
    for name, op in OPS.items():
        source = "default" if op.kind is Kind.COMPOSITE else "unsupported"
        assert runtime.plan.ops[name].source == source
    with runtime, pytest.raises(Unsupported) as caught:
        ops.topk(SCORES, LENGTHS, 2)
    place = place_of(type(runtime.backend), "topk")
    file, _, line = place.rpartition(":")
    assert Path(file) == package.source / "backend.py"
    assert "@not_written" in Path(file).read_text().splitlines()[int(line) - 1]
    assert "def topk(" in Path(file).read_text().splitlines()[int(line)]
    assert str(caught.value) == (
        f"topk: not supported: not written yet: topk; write it in {place}, spec: "
        "docs/spec/topk.md, `glm5-hal conformance explain TOPK-1`"
    )


def test_the_specification_that_is_named_is_there() -> None:
    for name, op in OPS.items():
        assert (Path(__file__).parents[2] / "docs" / "spec" / f"{name}.md").is_file()
        assert op.requirements


@pytest.mark.parametrize("base", UNDER_WAY)
def test_a_first_op_passes_with_little_touched(base: Base, make: Make) -> None:
    package = make(base)
    before = {path: path.read_text() for path in package.source.iterdir() if path.is_file()}
    package.write("topk", TOPK)
    runtime = opened(package.name)
    assert runtime.plan.ops["topk"].source == "native"
    assert quick("topk", runtime) == {}
    with runtime, pytest.raises(Unsupported, match="not written yet: swiglu; write it in "):
        ops.swiglu(torch.zeros(1, 2))
    after = {path: path.read_text() for path in before}
    changed = {path for path in before if before[path] != after[path]}
    assert len(changed) <= 2
    touched = 0
    for path in changed:
        lines = difflib.ndiff(before[path].splitlines(), after[path].splitlines())
        touched += sum(line.startswith(("+ ", "- ")) for line in lines)
    assert 0 < touched < 100


def test_an_op_that_is_wrong_fails_at_its_requirement(make: Make) -> None:
    package = make()
    package.write("topk", TOPK_LATE_TIES)
    package.write("linear", LINEAR_NARROW)
    runtime = opened(package.name)
    ties = quick("topk", runtime)
    assert {name.partition("/")[0] for name in ties} >= {"TOPK-1"}
    narrow = quick("linear", runtime)
    assert {name.partition("/")[0] for name in narrow} == {"LINEAR-5"}


def test_what_is_missing_may_be_substituted(make: Make) -> None:
    package = make()
    package.write("topk", TOPK)
    plan, _ = resolve(package.name, "fast", {"GLM5_HAL_SUBSTITUTE": "cpu"})
    assert plan.ops["topk"].source == "native"
    assert plan.ops["linear"].source == "substitute"


def test_a_described_chip_is_absent_until_its_rules_hold(make: Make) -> None:
    package = make()
    text = (package.source / "backend.yaml").read_text()
    rule = "rules: [{fact: module no_such_runtime, present: true, otherwise: no runtime here}]"
    (package.source / "backend.yaml").write_text(text.replace("rules: [] ", f"{rule} "))
    importlib.invalidate_caches()
    with pytest.raises(BackendUnavailable, match="no runtime here"):
        opened(package.name)


def test_a_triton_backend_says_what_it_waits_for(make: Make) -> None:
    package = make(Base.TRITON)
    cls = load(package.name)
    reason = f"torch_{package.name} is not installed: take the vendor's wheel for this torch"
    assert cls.is_available() == (False, reason)
    with pytest.raises(BackendUnavailable, match=reason):
        opened(package.name)
    from glm5_hal.kernels.triton.target import read_target

    tiles = read_target(f"glm5_hal_{package.name}", "tiles.yaml")
    portable = read_target("glm5_hal.kernels.triton", "portable.yaml")
    assert tiles.name == package.name
    assert tiles.tiles == portable.tiles
