"""Finding a backend by name: what is registered, what it is called, and every way to miss it."""

import sys
from pathlib import Path

import pytest
from stub_backends import Bare, Install, Mover

from glm5_hal import BackendUnavailable, SelectionError, UnknownBackend
from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.registry import ALIAS_GROUP, Choice, aliases, load, registered


@pytest.mark.parametrize(
    ("text", "name", "index"),
    [
        ("cpu", "cpu", 0),
        ("cpu:0", "cpu", 0),
        ("CPU", "cpu", 0),
        ("mychip:7", "mychip", 7),
        ("My_Chip-2:12", "my_chip-2", 12),
        ("x:007", "x", 7),
    ],
)
def test_a_choice_is_parsed(text: str, name: str, index: int) -> None:
    assert Choice.parse(text) == Choice(name, index)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":1",
        "cpu:",
        "cpu:x",
        "cpu:-1",
        "cpu:1:2",
        "1cpu",
        "cpu 1",
        "cpu\n",
        " cpu",
        "cpu:²",
    ],
)
def test_another_choice_is_refused(text: str) -> None:
    with pytest.raises(SelectionError) as caught:
        Choice.parse(text)
    assert repr(text) in str(caught.value)
    assert "name[:index]" in str(caught.value)


def test_the_cpu_is_registered() -> None:
    assert "cpu" in registered()
    assert load("cpu") is CpuBackend


def test_another_package_needs_its_entry_point_only(install: Install) -> None:
    install(bare="stub_backends:Bare", mover="stub_backends:Mover")
    assert list(registered()) == sorted(registered())
    assert {"bare", "cpu", "mover"} <= set(registered())
    assert load("bare") is Bare
    assert load("mover") is Mover


def test_nothing_is_imported_until_it_is_chosen(install: Install) -> None:
    install(gone="no_such_package:Gone", bare="stub_backends:Bare")
    assert "gone" in registered()
    assert load("bare") is Bare


def test_an_unknown_name_lists_the_known(install: Install) -> None:
    install(bare="stub_backends:Bare")
    with pytest.raises(UnknownBackend) as caught:
        load("bear")
    message = str(caught.value)
    assert "'bear'" in message
    assert "bare, " in message
    assert "cpu" in message
    assert "GLM5_HAL_BACKEND" in message
    assert isinstance(caught.value, SelectionError)


def test_a_name_registered_twice_is_an_error(install: Install) -> None:
    install(bare="stub_backends:Bare")
    install(bare="stub_backends:Mover")
    with pytest.raises(SelectionError, match="registered twice") as caught:
        load("cpu")
    assert "bare = stub_backends:Bare; bare = stub_backends:Mover" in str(caught.value)


def test_the_same_entry_point_seen_twice_is_one(install: Install) -> None:
    """A package that is on the path twice, as an editable install may be."""
    install(bare="stub_backends:Bare")
    install(bare="stub_backends:Bare")
    assert load("bare") is Bare


def test_a_module_that_does_not_import_is_unavailable(install: Install) -> None:
    install(gone="no_such_package.backend:Gone")
    with pytest.raises(BackendUnavailable) as caught:
        load("gone")
    assert caught.value.name == "gone"
    assert "importing no_such_package.backend:Gone failed" in caught.value.reason
    assert "no_such_package" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("import no_vendor_library", "No module named 'no_vendor_library'"),
        ("import ctypes; ctypes.CDLL('libnothing.so.1')", "libnothing.so.1"),
    ],
)
def test_a_missing_library_is_unavailable(
    install: Install,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str,
    shown: str,
) -> None:
    (tmp_path / "half_installed.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "half_installed", raising=False)
    install(half="half_installed:Half")
    with pytest.raises(BackendUnavailable, match=shown):
        load("half")


@pytest.mark.parametrize("value", ["stub_backends:NOT_A_BACKEND", "stub_backends", "builtins:dict"])
def test_what_is_no_backend_is_refused(install: Install, value: str) -> None:
    install(odd=value)
    with pytest.raises(SelectionError, match=f"odd = {value} is no Backend class"):
        load("odd")


def test_an_entry_point_to_nothing_is_refused(install: Install) -> None:
    install(odd="stub_backends:Nothing")
    with pytest.raises(SelectionError, match="odd = stub_backends:Nothing does not load"):
        load("odd")


def test_the_names_must_agree(install: Install) -> None:
    install(other="stub_backends:Bare")
    with pytest.raises(SelectionError, match="names itself 'bare'; the two must agree"):
        load("other")


def test_an_alias_is_another_name(install: Install) -> None:
    install(bare="stub_backends:Bare")
    install(ALIAS_GROUP, naked="bare", nude="bare")
    assert aliases()["naked"] == "bare"
    assert load("naked") is load("nude") is load("bare") is Bare


def test_an_alias_of_nothing_is_unknown(install: Install) -> None:
    install(ALIAS_GROUP, naked="bare")
    with pytest.raises(UnknownBackend, match="'naked'"):
        load("naked")


def test_an_alias_cannot_take_the_name_of_a_backend(install: Install) -> None:
    install(bare="stub_backends:Bare")
    install(ALIAS_GROUP, cpu="bare")
    assert load("cpu") is CpuBackend


def test_an_alias_for_two_backends_is_an_error(install: Install) -> None:
    install(bare="stub_backends:Bare", mover="stub_backends:Mover")
    install(ALIAS_GROUP, mine="bare")
    install(ALIAS_GROUP, mine="mover")
    with pytest.raises(SelectionError, match="registered twice: mine = bare; mine = mover"):
        load("mine")
