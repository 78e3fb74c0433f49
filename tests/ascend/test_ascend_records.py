"""What fused.yaml says is whole, and the files beside it agree with it."""

from importlib.resources import files
from typing import Any

import pytest
from signatures import signatures

from glm5_hal.backends.ascend.records import Limit, Record, parse, table
from glm5_hal.contract import OPS
from glm5_hal.errors import BackendDefinitionError
from glm5_hal.levels import Numerics

PACKAGE = files("glm5_hal.backends.ascend")
RECORDS = table().records
LIMIT = {"of": "width", "at_most": 3}
ENTRY = {
    "op": "rope",
    "function": "f",
    "parameters": ["x"],
    "limits": [LIMIT],
    "promises": {"A": {"kept": "so"}},
}


def _parsed(**changes: Any) -> Record:
    content = {"generations": {}, "fused": [{**ENTRY, **changes}]}
    return parse(content).records["rope"]


@pytest.mark.parametrize("record", RECORDS.values(), ids=lambda record: record.op)
def test_every_requirement_of_the_op_is_spoken_of(record: Record) -> None:
    wanted = {
        key
        for key, requirement in OPS[record.op].requirements.items()
        if requirement.profile is not Numerics.EXACT
    }
    assert set(record.promises) == {"RUN-1", *wanted}


def test_the_signatures_are_those_of_the_functions() -> None:
    assert set(signatures()) == {record.function for record in RECORDS.values()}


def test_no_parameter_is_given_that_its_function_lacks() -> None:
    for record in RECORDS.values():
        assert set(record.parameters) <= set(_parameters(record.function))


def _parameters(function: str) -> list[str]:
    inside = signatures()[function].partition("(")[2].rpartition(") ->")[0]
    return [part.split("=")[0].split()[-1] for part in inside.split(", ") if part != "*"]


def test_the_readme_says_what_is_taken() -> None:
    readme = PACKAGE.joinpath("README.md").read_text(encoding="utf-8")
    for record in RECORDS.values():
        (row,) = (line for line in readme.splitlines() if f"| `{record.function}` |" in line)
        assert f"| `{record.op}` |" in row
        established = not any(promise.unknown for promise in record.promises.values())
        assert ("by default" in row) is established


@pytest.mark.parametrize(
    ("device", "generation"),
    [("Ascend910B3", "A2"), ("Ascend910_9391", "A3"), ("Ascend950PR", "A5"), ("X1", "X1")],
)
def test_the_generation_follows_from_the_name(device: str, generation: str) -> None:
    assert table().generation(device) == generation


def test_an_obstacle_says_what_it_is() -> None:
    record = _parsed(limits=[{**LIMIT, "why": "small"}])
    assert record.obstacle({"width": 3}) is None
    assert record.obstacle({"width": 4}) == "width is 4, expected at most 3 (small)"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"promise": {}}, r"the record of rope has unknown keys \['promise'\]"),
        ({"limits": [{**LIMIT, "below": 3}]}, r"a limit has unknown keys \['below'\]"),
        ({"limits": [{"at_most": 3}]}, r"a limit lacks \['of'\]"),
        ({"limits": [{"of": "width"}]}, "the limit of width is not one condition"),
        ({"limits": [{**LIMIT, "at_least": 1}]}, "the limit of width is not one condition"),
        ({"promises": {"A": {}}}, "a promise is either kept or unknown"),
        ({"promises": {"A": {"kept": "so", "unknown": "why"}}}, "either kept or unknown"),
        ({"promises": {"A": {"source": "so"}}}, "the promise A has unknown keys"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BackendDefinitionError, match=f"fused.yaml: .*{sentence}"):
        _parsed(**changes)


def test_a_record_lacking_a_part_is_an_error() -> None:
    entry = {key: value for key, value in ENTRY.items() if key != "promises"}
    with pytest.raises(BackendDefinitionError, match=r"the record of rope lacks \['promises'\]"):
        parse({"generations": {}, "fused": [entry]})


def test_an_op_has_one_record() -> None:
    with pytest.raises(BackendDefinitionError, match="an op has two records"):
        parse({"generations": {}, "fused": [ENTRY, ENTRY]})


def test_limits_hold_at_their_edge() -> None:
    assert Limit("k", at_least=2).holds(2)
    assert not Limit("k", at_least=2).holds(1)
    assert Limit("k", multiple_of=16).holds(32)
    assert Limit("k", one_of=(False,)).holds(False)
    assert not Limit("k", one_of=(False,)).holds(True)
