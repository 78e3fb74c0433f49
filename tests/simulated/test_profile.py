"""Profiles of devices: read whole or refused, one a process."""

from pathlib import Path

import pytest
from inside import DEVICE, inside, run_alone

from glm5_hal.conformance.errors import AskedError
from glm5_hal.conformance.simulated import build, device
from glm5_hal.conformance.simulated.habits import Habits, Profile, parse_profile, read_profile
from glm5_hal.conformance.simulated.switch import Switch

BACKENDS = Path(__file__).parents[2] / "backends"
PROFILES = sorted(path.parent.name for path in BACKENDS.glob("*/simulated.yaml"))


def test_there_are_profiles() -> None:
    assert len(PROFILES) == 7


@pytest.mark.parametrize("name", PROFILES)
def test_a_vendor_s_profile_can_be_read(name: str) -> None:
    profile = read_profile(name)
    assert profile.habits != Habits()
    assert profile == read_profile(BACKENDS / name / "simulated.yaml")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "expected a mapping for Profile"),
        ({"name": "x"}, "'device' is missing"),
        ({"device": "x", "name": "x", "habit": {}}, "unknown key 'habit'; Profile has device"),
        ({"device": "x", "name": "x", "devices": "2"}, "devices is '2', expected int"),
        ({"device": "x", "name": "x", "habits": {"float64": "no"}}, "expected one of native"),
        ({"device": "x", "name": "x", "habits": {"unordered_sums": 1}}, "1 is no switch"),
        (
            {"device": "x", "name": "x", "habits": {"unordered_sums": "while x.y"}},
            "'x.y' is no setting",
        ),
        ({"device": "x", "name": "x", "triton": {"default_precision": "tf32"}}, "one of ieee"),
    ],
)
def test_what_is_wrong_is_named(record: object, message: str) -> None:
    with pytest.raises(AskedError, match=message):
        parse_profile(record)


def test_a_missing_profile_is_named(tmp_path: Path) -> None:
    with pytest.raises(AskedError, match="no such file; it describes a simulated device"):
        read_profile(tmp_path / "x.yaml")


def test_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIP_ORDERED", "1")
    switch = Switch.of("unless $CHIP_ORDERED=1 and torch.are_deterministic_algorithms_enabled")
    assert switch.on()
    assert not Switch.of("unless $CHIP_ORDERED").on()
    monkeypatch.setenv("CHIP_ORDERED", "0")
    assert Switch.of("unless $CHIP_ORDERED=1").on()
    assert Switch.of(True).on()
    assert not Switch.of(False).on()


def test_a_variable_that_is_set_after_the_first_use_is_not_seen(built: None) -> None:
    done = run_alone(
        f"""
        import os, torch
        from glm5_hal.conformance.simulated import device
        from glm5_hal.conformance.simulated.habits import Habits
        from glm5_hal.conformance.simulated.switch import Switch
        module = device.simulate("{DEVICE}")
        switch = Switch.of("unless $CHIP_EARLY and $CHIP_LATE")
        os.environ["CHIP_EARLY"] = "1"
        used = [module.is_initialized()]
        torch.ones(1, device="{DEVICE}")
        used.append(module.is_initialized())
        os.environ["CHIP_LATE"] = "1"
        print(used, Switch.of("while $CHIP_EARLY").on(), Switch.of("while $CHIP_LATE").on())
        """
    )
    assert done.stdout.strip() == "[False, True] True False", done.stderr


@pytest.mark.parametrize(
    ("listed", "count"),
    [(None, 3), ("0", 1), ("2,0", 2), ("0,2", 2), ("", 0), ("7", 0), ("1,1", 0), ("a", 0)],
)
def test_a_variable_lists_the_devices(listed: str | None, count: int) -> None:
    profile = Profile("x", "x", devices=3, visible="CHIP_VISIBLE")
    environment = {} if listed is None else {"CHIP_VISIBLE": listed}
    assert device.visible_devices(profile, environment) == count
    strict = Profile("x", "x", devices=3, visible="CHIP_VISIBLE", ascending=True)
    assert device.visible_devices(strict, environment) == (0 if listed == "2,0" else count)


@inside
def test_one_name_a_process() -> None:
    profile = device.running()
    assert profile is not None
    assert device.simulate(profile) is device.simulate(profile)
    with pytest.raises(AskedError, match=f"simulates '{DEVICE}' already, as simulated {DEVICE}"):
        device.simulate("other")


def test_nothing_runs_before_it_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_running", None)
    with pytest.raises(AskedError, match="call simulate"):
        device.set_latency(1)


@pytest.mark.parametrize("name", PROFILES)
def test_a_vendor_s_device_starts(built: None, name: str) -> None:
    done = run_alone(
        f"""
        from glm5_hal.conformance.simulated import device
        from glm5_hal.conformance.simulated.habits import read_profile
        import functools, importlib, torch
        profile = read_profile("{name}")
        module = device.simulate(profile)
        assert module.device_count() == profile.devices, module.device_count()
        if profile.module is not None:
            assert getattr(importlib.import_module(profile.module), profile.device) is module
        for path, value in profile.flags.items():
            assert functools.reduce(getattr, path.split(".")[1:], torch) == value, path
        x = torch.randn(4, 64, device=profile.device)
        for call in (x @ x.T, x.sum(-1), x.topk(3).values, x / 3, x.exp()):
            assert not call.isnan().any()
        print(module.get_device_name())
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == read_profile(name).name


def test_a_compiler_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(build.BuildError, match="cannot be built with false and torch"):
        build.extension(tmp_path)
    assert not list(tmp_path.rglob("*.so"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(build.BuildError, match="no C\\+\\+ compiler 'no-such-compiler'"):
        build.extension(tmp_path)


def test_it_is_built_once(built: None, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build.extension()
    monkeypatch.setattr(build, "_build", lambda *_: pytest.fail("built again"))
    assert build.extension() == path
