"""Backends of chips with a torch device: what their backend.yaml says is what happens."""

import json
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import torch
import yaml
from surrounded import CHIP, Around, chip, namespace

from glm5_hal import Numerics
from glm5_hal.backends.torch_triton import device as device_module
from glm5_hal.backends.torch_triton.backend import missing_triton
from glm5_hal.backends.torch_triton.descriptor import Visible, parse, read_descriptor
from glm5_hal.backends.torch_triton.surroundings import Process
from glm5_hal.errors import BackendDefinitionError, BackendUnavailable
from glm5_hal.registry import load
from glm5_hal.settings import State

SCHEMA = json.loads(
    files("glm5_hal.backends.torch_triton").joinpath("backend.schema.json").read_text("utf-8")
)
BACKENDS = Path(device_module.__file__).parents[1]
YAMLS = sorted(BACKENDS.glob("*/backend.yaml"))
GOOD = {"torch.version.acme": "1", "torch.acme": SimpleNamespace(fast_math=True)}


@pytest.fixture(autouse=True)
def _with_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding a chip does not need triton; that it is missing is a test of its own."""
    monkeypatch.setattr(device_module, "missing_triton", lambda: None)
    monkeypatch.delenv("ACME_DETERMINISTIC", raising=False)


# --- backend.yaml ---


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.parent.name)
def test_every_backend_yaml_fits_the_schema_and_the_reader(path: Path) -> None:
    record = yaml.safe_load(path.read_text("utf-8"))
    jsonschema.validate(record, SCHEMA)
    about = read_descriptor(f"glm5_hal.backends.{path.parent.name}")
    for file in about.tiles.values():
        assert path.with_name(file).exists()
    least = [tuple(map(int, key.split("."))) for key in about.tiles if key != "*"]
    assert least == sorted(least)


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"colour": "red"}, "colour is unknown; known: vendor, collectives"),
    "wrong type": ({"vendor": 7}, "vendor is 7, expected a text"),
    "a number for a flag": (
        {"flags": [{"flag": "torch.a", "value": 1.5, "why": "x"}]},
        r"flags\[0\].value is 1.5, expected true or false or a number or a text",
    ),
    "no list": ({"rules": "none"}, "rules is 'none', expected a list"),
    "no mapping": ({"tiles": ["a.yaml"]}, "tiles is .*, expected a mapping"),
    "unknown key inside": (
        {"rules": [{"fact": "module x", "present": True, "otherwise": "y", "then": 1}]},
        r"rules\[0\].then is unknown",
    ),
    "missing inside": ({"rules": [{"fact": "module x"}]}, r"rules\[0\].present is missing"),
}


@pytest.mark.parametrize(("change", "message"), FAULTS.values(), ids=FAULTS)
def test_a_yaml_that_does_not_fit_is_refused_with_the_entry(
    change: dict[str, Any], message: str
) -> None:
    record = {**CHIP, **change}
    with pytest.raises(BackendDefinitionError, match=message):
        parse(record, "acme/backend.yaml")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(record, SCHEMA)


def test_the_schema_and_the_reader_ask_for_the_same() -> None:
    jsonschema.validate(CHIP, SCHEMA)
    assert parse(CHIP, "acme/backend.yaml").vendor == "Acme"
    for key in SCHEMA["required"]:
        with pytest.raises(BackendDefinitionError, match=f"{key} is missing"):
            parse({k: v for k, v in CHIP.items() if k != key}, "acme/backend.yaml")


# --- detection ---


def test_a_chip_is_found() -> None:
    acme = chip(Around(GOOD), namespace(((1, 0), (1, 0))))
    assert acme.is_available() == (True, "2 Acme devices")
    assert acme.device_count() == 2


def test_the_first_reason_is_told() -> None:
    def reason(attributes: dict[str, object], there: Any, **environment: str) -> str:
        return chip(Around(attributes, environment=environment), there).is_available()[1]

    assert reason({}, namespace()) == "this torch knows no Acme"
    absent = namespace(present=False)
    assert reason(GOOD, absent) == "no Acme device is visible"
    hidden = reason(GOOD, absent, ACME_VISIBLE_DEVICES="")
    assert hidden == "no Acme device is visible (ACME_VISIBLE_DEVICES=)"


def test_a_module_that_does_not_load_is_named() -> None:
    acme = chip(Around(GOOD), namespace(), imports=["no_such_module_of_acme"])
    assert acme.is_available()[1].startswith("importing no_such_module_of_acme failed: ")


def test_triton_is_missed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "missing_triton", missing_triton)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    available, reason = chip(Around(GOOD), namespace()).is_available()
    assert not available
    assert reason.startswith("triton is not installed")


CUDA = {"torch.version.cuda": "13.0"}
POSERS = {
    "built for HIP": (Around({**CUDA, "torch.version.hip": "6.2"}), "HIP 6.2"),
    "built for MACA": (Around({**CUDA, "torch.version.maca": "3.8.1.0"}), "MACA 3.8.1.0"),
    "another's module": (Around(CUDA, modules=frozenset({"torch_xmlir"})), "torch_xmlir"),
    "a torch without CUDA": (Around(), "without CUDA"),
}


@pytest.mark.parametrize(("around", "message"), POSERS.values(), ids=POSERS)
def test_what_poses_as_cuda_is_not_taken_for_it(around: Around, message: str) -> None:
    rules = load("cuda")._descriptor().rules  # type: ignore[attr-defined]
    broken = [text for rule in rules if (text := rule.broken(around)) is not None]
    assert len(broken) == 1
    assert message in broken[0]
    assert not any(rule.broken(Around(CUDA)) for rule in rules)


# --- settings ---


def _states(around: Around, there: Any = None) -> dict[str, State]:
    acme = chip(around, there or namespace())
    return {setting.name: setting.state for setting in acme.settings()}


def test_settings_are_told_as_they_stand() -> None:
    fast = SimpleNamespace(fast_math=True)
    attributes = {**GOOD, "torch.acme.fast_math": True}
    assert _states(Around(attributes)) == {
        "ACME_DETERMINISTIC": State.PENDING,
        "torch.acme.fast_math": State.PENDING,
    }
    set_up = Around(
        {**GOOD, "torch.acme": fast, "torch.acme.fast_math": False},
        environment={"ACME_DETERMINISTIC": "yes"},
    )
    assert set(_states(set_up).values()) == {State.GOOD}
    wrong = Around(attributes, environment={"ACME_DETERMINISTIC": "0"})
    assert _states(wrong)["ACME_DETERMINISTIC"] is State.WRONG
    started = {**attributes, "torch.cpu.is_initialized": lambda: True}
    assert _states(Around(started))["ACME_DETERMINISTIC"] is State.LATE


@pytest.mark.parametrize("environment", [{"ACME_DETERMINISTIC": "0"}, {}])
def test_a_setting_that_cannot_be_made_keeps_the_chip_from_running(
    environment: dict[str, str],
) -> None:
    started = {**GOOD, "torch.cpu.is_initialized": lambda: True}
    acme = chip(Around(started, environment=environment), namespace())
    available, reason = acme.is_available()
    assert not available
    assert reason.startswith("ACME_DETERMINISTIC is")
    assert reason.endswith("export ACME_DETERMINISTIC=1")
    with pytest.raises(BackendUnavailable, match="export ACME_DETERMINISTIC=1"):
        acme.in_profile(Numerics.EXACT)


def test_a_variable_that_must_not_be_set_is_wrong_when_it_is() -> None:
    entry = {"variable": "ACME_FAST", "why": "another path by size"}
    for environment, state in (({}, State.GOOD), ({"ACME_FAST": "1"}, State.WRONG)):
        around = Around(GOOD, environment={"ACME_DETERMINISTIC": "1", **environment})
        acme = chip(around, namespace(), absent=[entry])
        assert acme.settings()[1].state is state
        assert acme.is_available()[0] is (state is State.GOOD)
    assert "unset ACME_FAST" in acme.is_available()[1]


VISIBLE = {
    "not set": ({}, ()),
    "ascending": ({"A": "0,2,5"}, ()),
    "not ascending": ({"A": "2,0"}, ("export A=0,2",)),
}


@pytest.mark.parametrize(("environment", "fixes"), VISIBLE.values(), ids=VISIBLE)
def test_a_list_of_devices_that_must_ascend(
    environment: dict[str, str], fixes: tuple[str, ...]
) -> None:
    visible = Visible(("A",), ascending=True)
    found = visible.look(Around(environment=environment))
    assert tuple(setting.fix for setting in found) == fixes


TOGETHER = {
    "neither": ({}, ()),
    "both alike": ({"A": "1", "B": "1"}, ()),
    "one of them": ({"B": "1"}, ("export A=1",)),
    "not alike": ({"A": "0", "B": "1"}, ("export B=0",)),
}


@pytest.mark.parametrize(("environment", "fixes"), TOGETHER.values(), ids=TOGETHER)
def test_lists_of_devices_that_must_be_alike(
    environment: dict[str, str], fixes: tuple[str, ...]
) -> None:
    visible = Visible(("A", "B"), together=True)
    found = visible.look(Around(environment=environment))
    assert tuple(setting.fix for setting in found) == fixes


def test_a_variable_that_a_module_reads_is_late_once_that_is_imported() -> None:
    entry = {"variable": "A", "accepts": ["1"], "before": "acme_lib", "why": "w"}
    loaded = Around(GOOD, loaded=frozenset({"acme_lib"}))
    for around, state in ((Around(GOOD), State.PENDING), (loaded, State.LATE)):
        (setting, *_) = chip(around, namespace(), variables=[entry]).settings()
        assert setting.state is state


def test_this_process_is_seen_as_it_is() -> None:
    around = Process()
    assert around.installed("torch")
    assert around.imported("torch")
    assert not around.installed("no_such_module")
    assert around.attribute("torch.version.git_version") == torch.version.git_version
    assert around.attribute("torch.version.no.such") is None


# --- devices ---


def test_tiles_follow_the_capability() -> None:
    about = parse(CHIP, "acme/backend.yaml")
    assert about.tile_file((1, 9)) == "large.yaml"
    assert about.tile_file((3, 0)) == "small.yaml"
    old = chip(Around(GOOD), namespace(((0, 9),)))
    with pytest.raises(BackendUnavailable, match=r"capability \(0, 9\); tiles begin with"):
        old._targets()


@pytest.mark.parametrize(
    "package", [f"glm5_hal.backends.{path.parent.name}" for path in YAMLS], ids=lambda p: p[18:]
)
def test_the_chips_limits_hold_for_portable_tiles(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = next(iter(read_descriptor(package).tiles.values()))
    backend = chip(Around(GOOD), namespace())
    monkeypatch.setattr(backend, "_package", package)
    monkeypatch.setattr(backend, "_tile_file", lambda index: file)
    own, portable = backend._targets.__wrapped__(backend).values()
    limits = ("warp_size", "max_warps", "shared_memory", "grid_limit", "barriers", "wide_integers")
    for limit in limits:
        assert getattr(portable, limit) == getattr(own, limit)
    assert portable.tiles.keys() >= own.tiles.keys()
