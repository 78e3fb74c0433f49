"""Follows a page of the documentation as a reader would: writes its files, runs its commands.

What a page is made of, in order:

- a ``console`` block: lines that begin with ``$`` are run by bash, one after the other, in one
  directory and with one environment; a line that ends in a backslash goes on. What stands below a
  command is what it prints, stdout and stderr as they come. ``...`` in a line stands for anything,
  and a line of ``...`` alone for any number of lines.
- ``<!-- exits with N -->`` in front of such a block: its last command does; others exit with 0.
- a block with ``title="PATH"``: the file is written.
- a block with ``title="PATH: in the class"``: each method and attribute takes the place of the one
  of its name, decorators included, in the only class of the file, or is added at its end; imports
  go in front of the file's.

Other blocks are for the reader alone.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
import textwrap
import venv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_BLOCK = re.compile(
    r"(?:<!-- exits with (?P<status>\d+) -->\n)?^```(?P<kind>[\w-]+)(?P<info>[^\n]*)\n"
    r"(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_TITLE = re.compile(r'title="(?P<path>[^":]+)(?P<inside>: in the class)?"')
_ANYTHING = "..."


@dataclass(frozen=True)
class Command:
    """A command of the page.

    Attributes:
        line: what bash is given.
        output: what it prints, with wildcards.
        status: its exit code.
    """

    line: str
    output: str
    status: int = 0


@dataclass(frozen=True)
class Text:
    """A file, or a part of the class in a file.

    Attributes:
        path: from the directory that the commands run in.
        content: what is written.
        inside: whether it belongs into the class of a file that is there.
    """

    path: str
    content: str
    inside: bool = False


def steps(page: str) -> Iterator[Command | Text]:
    """What a page asks for, in order."""
    for match in _BLOCK.finditer(page):
        title = _TITLE.search(match["info"])
        if match["kind"] == "console":
            yield from _commands(match["body"], int(match["status"] or 0))
        elif title is not None:
            yield Text(title["path"], match["body"], title["inside"] is not None)


def _commands(body: str, status: int) -> list[Command]:
    found: list[Command] = []
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        match = re.match(r"((?:[^\n]*\\\n)*[^\n]*)\n?(.*)", part, re.DOTALL)
        assert match is not None
        found.append(Command(match[1], match[2]))
    assert found, f"a console block without a command:\n{body}"
    return [*found[:-1], Command(found[-1].line, found[-1].output, status)]


def agrees(expected: str, printed: str) -> bool:
    """Whether an output is the one that a page shows; blanks at the ends of lines do not count."""
    pattern = ""
    for line in expected.strip("\n").splitlines():
        if line.strip() == _ANYTHING:
            pattern += r"(?:[^\n]*\n)*"
        else:
            parts = map(re.escape, line.rstrip().split(_ANYTHING))
            pattern += r"[^\n]*".join(parts) + r"\n"
    shown = "".join(f"{line.rstrip()}\n" for line in printed.strip("\n").splitlines())
    return re.fullmatch(pattern, shown) is not None


def with_parts(source: str, content: str) -> str:
    """A module's source with methods and attributes of its only class replaced or added."""
    lines = textwrap.dedent(content).splitlines()
    for node in ast.parse("\n".join(lines)).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            at = ast.parse(source).body[1].lineno - 1  # behind the docstring
            there = source.splitlines(keepends=True)
            source = "".join([*there[:at], f"{ast.unparse(node)}\n", *there[at:]])
        else:
            source = _with_part(source, _name(node), lines[_first(node) - 1 : node.end_lineno])
    return source


def _with_part(source: str, name: str, part: list[str]) -> str:
    (cls,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    lines = source.splitlines()
    new = textwrap.indent("\n".join(part), "    ")
    for node in cls.body:
        if isinstance(node, ast.FunctionDef | ast.Assign) and _name(node) == name:
            return "\n".join([*lines[: _first(node) - 1], new, *lines[node.end_lineno :]]) + "\n"
    return "\n".join([*lines[: cls.end_lineno], "", new, *lines[cls.end_lineno :]]) + "\n"


def _name(node: ast.stmt) -> str:
    match node:
        case ast.FunctionDef(name=name) | ast.Assign(targets=[ast.Name(id=name)]):
            return name
    raise AssertionError(f"neither a method nor an attribute nor an import: {ast.unparse(node)}")


def _first(node: ast.stmt) -> int:
    return min([node.lineno, *(mark.lineno for mark in getattr(node, "decorator_list", []))])


@dataclass
class Room:
    """A directory with a fresh environment that sees what is installed here.

    Attributes:
        where: the directory that commands begin in.
        home: what keeps the environment; outside `where`.
        transcript: what was run and printed so far.
    """

    where: Path
    home: Path
    transcript: list[str] = field(default_factory=list)

    def furnish(self) -> None:
        """Make the environment, with `glm5-hal`, `python` and `pip` on its path."""
        venv.create(self.home / "venv", symlinks=True)
        bin_ = self.home / "venv" / "bin"
        (site,) = (self.home / "venv").glob("lib/python*/site-packages")
        seen = [path for path in sys.path if path.endswith("-packages")]
        lines = (f"import site; site.addsitedir({path!r})\n" for path in seen)
        (site / "outer.pth").write_text("".join(lines))
        for name, module in (("glm5-hal", "glm5_hal"), ("pip", "pip")):
            script = bin_ / name
            script.write_text(f'#!/bin/sh\nexec {shlex.quote(str(bin_))}/python -m {module} "$@"\n')
            script.chmod(0o755)
        self.where.mkdir()
        self._keep({**_outer(), "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}"})

    def follow(self, step: Command | Text) -> None:
        """Do one step.

        Raises:
            AssertionError: a command printed something else or exited otherwise than shown.
        """
        if isinstance(step, Text):
            self._write(step)
            return
        printed, status = self.run(step.line)
        self.transcript.append(f"$ {step.line}\n{printed}[{status}]")
        told = "\n".join(self.transcript[-2:])
        assert status == step.status, f"exit code {status}, expected {step.status}:\n{told}"
        assert agrees(step.output, printed), f"expected:\n{step.output}\nbut:\n{told}"

    def run(self, line: str) -> tuple[str, int]:
        """What a command prints, and its exit code; directory and variables are kept."""
        state = self.home / "state"
        script = (
            f'cd "$(cat {self.home}/cwd)"\nset -a; . {state}; set +a\n{line}\nstatus=$?\n'
            f"export -p > {state}\npwd > {self.home}/cwd\nexit $status\n"
        )
        done = subprocess.run(
            ["bash", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env={"PATH": os.environ["PATH"]},
            check=False,
        )
        return done.stdout, done.returncode

    def _write(self, step: Text) -> None:
        path = Path((self.home / "cwd").read_text().strip()) / step.path
        path.parent.mkdir(parents=True, exist_ok=True)
        inside = step.inside
        path.write_text(with_parts(path.read_text(), step.content) if inside else step.content)

    def _keep(self, variables: Mapping[str, str]) -> None:
        quoted = (f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
        (self.home / "state").write_text("".join(quoted))
        (self.home / "cwd").write_text(f"{self.where}\n")


def _outer() -> dict[str, str]:
    """The environment of a reader who has set nothing, and what keeps pip offline."""
    kept = ("HOME", "LANG", "TMPDIR", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    found = {name: os.environ[name] for name in kept if name in os.environ}
    return {
        **found,
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # which means: without it
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
    }
