"""Faults planted into one layer are found there: in one process, and from two machines' traces."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Call
from faults import PLANTED

from glm5_hal.requirements import REQUIREMENTS

COMMAND = Path(__file__).with_name("planted_command.py")
LAYERS = {name: 1 + place % 3 for place, name in enumerate(PLANTED)}


def found(call: Call, checkpoint: Path, ids: Path, *more: object) -> dict[str, Any]:
    """What a bisection of `planted` against the CPU says."""
    run = ("--input-ids", ids, "--backend", "planted", "--json")
    result = call("bisect", checkpoint, *run, *more)
    assert result.exit_code == 1, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def check(document: dict[str, Any], name: str, layer: int) -> None:
    """The fault, its requirement, and nothing in any other layer."""
    known, guilty = PLANTED[name], document["guilty"]
    assert guilty["site"] == known.site(layer)
    assert guilty["requirements"] == [known.requirement]
    assert guilty["definition"] == "expected"
    assert {finding["place"] for finding in document["differing"]} == {f"layer{layer}"}
    assert {f["op"] for f in document["differing"]} <= {known.op, known.within, "moe_experts"}


def machine(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GLM5_HAL_")}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "PYTHONPATH": str(COMMAND.parent)},
    )


def test_there_are_ten_faults_and_more() -> None:
    assert len(PLANTED) >= 10
    assert {known.requirement for known in PLANTED.values()} <= REQUIREMENTS.keys()


@pytest.mark.parametrize("name", PLANTED)
def test_a_fault_in_one_layer_is_found(
    call: Call, plant: Callable[[str, int], None], tiny: Path, ids: Path, name: str
) -> None:
    plant(name, LAYERS[name])
    document = found(call, tiny, ids)
    check(document, name, LAYERS[name])
    replay = call("bisect", "--replay", document["guilty"]["case"], "--backend", "planted")
    assert replay.exit_code == 1
    assert "as it did when it was found" in replay.stdout
    sound = call("bisect", "--replay", document["guilty"]["case"], "--backend", "cpu")
    assert sound.exit_code == 0


@pytest.mark.parametrize("name", ["tie", "rope-half", "next-page"])
def test_a_fault_is_found_from_the_traces_of_two_processes(
    call: Call, tiny: Path, ids: Path, tmp_path: Path, name: str
) -> None:
    """As it is done with two machines: traces, what they lack, traces again, a case."""
    layer = LAYERS[name]
    here = ("trace", tiny, "--input-ids", ids, "--backend", "cpu", "--out", tmp_path / "here")
    there = ("trace", tiny, "--input-ids", ids, "--backend", "planted", "--out", tmp_path / "there")
    compare = ("bisect", "--trace", tmp_path / "there", "--trace", tmp_path / "here", "--json")
    assert call(*here).exit_code == 0
    assert machine(COMMAND, name, layer, *there).returncode == 0
    first = call(*compare)
    assert first.exit_code == 1
    document = json.loads(first.stdout)
    site = PLANTED[name].site(layer)
    assert document["first"] == site
    assert document["case"] is None
    assert [command.rpartition(" ")[2].strip("'") for command in document["next"]] == [site] * 2

    more = ("--tensors", site)
    assert call(*here, *more).exit_code == 0
    assert machine(COMMAND, name, layer, *there, *more).returncode == 0
    document = json.loads(call(*compare).stdout)
    assert document["first"] == site
    assert document["requirements"] == [PLANTED[name].requirement]
    replay = machine(
        COMMAND, name, layer, "bisect", "--replay", document["case"], "--backend", "planted"
    )
    assert replay.returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_a_fault_in_one_layer_of_mid_is_found_within_a_minute(
    call: Call, plant: Callable[[str, int], None], mid: Path, ids: Path, name: str
) -> None:
    layer = 5 - LAYERS[name]
    plant(name, layer)
    began = time.process_time()  # of all threads: what others do on the machine counts for nothing
    document = found(call, mid, ids)
    seconds = time.process_time() - began
    print(f"\nmid, {name}: {seconds:.1f} s of processor time")
    check(document, name, layer)
    assert seconds < 60
