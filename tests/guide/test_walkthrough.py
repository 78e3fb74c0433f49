"""What the walkthrough accepts, and what it does not."""

from pathlib import Path

import pytest
from walkthrough import Command, Room, Text, agrees, steps, with_parts

PAGE = """
Text.

```console
$ mkdir a \\
  b
$ echo one; echo two
one
two
```

```python title="a/part.py"
x = 1
```

```python title="a/part.py: in the class"
def f(self): ...
```

<!-- exits with 3 -->
```console
$ true
$ exit 3
```

```sh
never run
```
"""


def test_a_page_is_commands_and_files_in_order() -> None:
    assert list(steps(PAGE)) == [
        Command("mkdir a \\\n  b", ""),
        Command("echo one; echo two", "one\ntwo\n"),
        Text("a/part.py", "x = 1\n"),
        Text("a/part.py", "def f(self): ...\n", inside=True),
        Command("true", ""),
        Command("exit 3", "", 3),
    ]


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("one\ntwo\n", "one  \ntwo\n\n"),
        ("took ... s\n", "took 3.5 s\n"),
        ("first\n...\nlast\n", "first\nlast\n"),
        ("first\n...\nlast\n", "first\nx\ny\nlast\n"),
        ("...\n", ""),
        ("", ""),
    ],
)
def test_agrees(expected: str, printed: str) -> None:
    assert agrees(expected, printed)


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("one\n", "one\ntwo\n"),
        ("one\ntwo\n", "one\n"),
        ("", "a warning\n"),
        ("a.b\n", "axb\n"),
        ("took ... s\n", "took 3\n5 s\n"),
        ("first\n...\nlast\n", "first\nlast\nmore\n"),
    ],
)
def test_does_not_agree(expected: str, printed: str) -> None:
    assert not agrees(expected, printed)


SOURCE = '''"""A chip."""

import torch


class Chip:
    name = "chip"

    @mark
    def first(self) -> int:
        """Old."""
        return 0

    @mark
    def second(self) -> int:
        return 0
'''


def test_parts_are_replaced_with_their_decorators_or_added() -> None:
    block = """
import math

name = "other"

def first(self) -> int:
    return 1

@staticmethod
def third() -> int:
    return 3
"""
    assert (
        with_parts(SOURCE, block)
        == '''"""A chip."""

import math
import torch


class Chip:
    name = "other"

    def first(self) -> int:
        return 1

    @mark
    def second(self) -> int:
        return 0

    @staticmethod
    def third() -> int:
        return 3
'''
    )


def test_what_no_class_holds_is_refused() -> None:
    with pytest.raises(AssertionError, match="neither a method nor an attribute nor an import"):
        with_parts(SOURCE, "print()\n")


@pytest.fixture
def room(tmp_path: Path) -> Room:
    made = Room(tmp_path / "where", tmp_path / "home")
    made.home.mkdir()
    made.furnish()
    return made


def test_directory_and_variables_are_kept(room: Room) -> None:
    for line in ("mkdir in && cd in", "export KEPT='a b'", "LOST=1"):
        room.follow(Command(line, ""))
    room.follow(Text("file", "text\n"))
    room.follow(Command("basename $PWD; echo $KEPT $LOST; cat file", "in\na b\ntext\n"))


def test_what_a_page_does_not_show_is_a_failure(room: Room) -> None:
    with pytest.raises(AssertionError, match="expected:\nyes"):
        room.follow(Command("echo no", "yes\n"))
    with pytest.raises(AssertionError, match="exit code 1, expected 0"):
        room.follow(Command("false", ""))
    with pytest.raises(AssertionError, match="exit code 0, expected 1"):
        room.follow(Command("true", "", 1))


def test_the_environment_is_new_and_sees_what_is_installed(room: Room) -> None:
    room.follow(
        Command("python -c 'import glm5_hal, sys; print(sys.prefix)'", f"{room.home}/venv\n")
    )
    room.follow(Command("pip --version", "pip ... from ...\n"))
