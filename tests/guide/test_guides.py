"""The guides of the documentation, followed as they are written, in a fresh environment."""

import shutil
from pathlib import Path

import pytest
from walkthrough import Room, steps

from glm5_hal.conformance.suite import Suite

GUIDE = Path(__file__).parents[2] / "docs" / "guide"


@pytest.fixture
def room(tmp_path: Path) -> Room:
    made = Room(tmp_path / "where", tmp_path / "home")
    made.home.mkdir()
    made.furnish()
    return made


def follow(room: Room, page: str) -> None:
    for step in steps((GUIDE / page).read_text("utf-8")):
        room.follow(step)


@pytest.mark.slow
def test_the_porting_guide(room: Room) -> None:
    follow(room, "porting.md")


@pytest.mark.slow
def test_the_worked_example(room: Room) -> None:
    # CI has a clean checkout
    if Suite.here().dirty:
        pytest.skip("it ends in a package that stands, which a changed checkout cannot make")
    follow(room, "example.md")


@pytest.mark.slow
def test_the_page_of_the_library_in_c(room: Room) -> None:
    # the page itself asks for them
    if not (shutil.which("make") and shutil.which("cc")):
        pytest.skip("needs make and a C compiler")
    follow(room, "c-abi.md")
