"""Which commands and options there are, and what they cost to ask for."""

import io
import logging
import sys
from typing import Any, cast

import pytest
import typer
from cli_names import Call

from glm5_hal.cli import app, console, failures

COMMANDS = {
    "backends": ["--json"],
    "doctor": ["--json"],
    "plan": ["--backend", "--json", "--numerics"],
    "params": ["--json", "config"],
    "make-checkpoint": ["--dtype", "--no-mtp", "--seed", "config", "directory"],
    "run": [
        "--backend",
        "--chunk",
        "--dtype",
        "--eager",
        "--input-ids",
        "--json",
        "--latent-eps",
        "--max-new-tokens",
        "--mla-form",
        "--prompt",
        "--ranks",
        "--seed",
        "--speculative",
        "--temperature",
        "--top-p",
        "directory",
    ],
    "logits": [
        "--backend",
        "--chunk",
        "--dtype",
        "--input-ids",
        "--latent-eps",
        "--out",
        "--ranks",
        "--trace",
        "directory",
    ],
    "audit": ["--bad", "--json", "--kernel", "--out", "--target", "--tiles", "--workers"],
    "bisect": [
        "--against",
        "--backend",
        "--chunk",
        "--dtype",
        "--input-ids",
        "--json",
        "--latent-eps",
        "--numerics",
        "--out",
        "--replay",
        "--trace",
        "directory",
    ],
    "trace": [
        "--backend",
        "--chunk",
        "--dtype",
        "--input-ids",
        "--latent-eps",
        "--numerics",
        "--out",
        "--tensors",
        "directory",
    ],
    "bench": [
        "--against",
        "--backend",
        "--baseline",
        "--check",
        "--contexts",
        "--dtype",
        "--json",
        "--model",
        "--numerics",
        "--ops",
        "--out",
        "--repeats",
        "--shapes",
        "--threads",
        "names",
    ],
    "lowering": ["--bad", "--front-end", "--json", "--kernel", "--out"],
    "matrix": ["--add", "--evidence", "--json", "--out"],
    "conformance run": [
        "--aspects",
        "--backend",
        "--case",
        "--json",
        "--numerics",
        "--ops",
        "--out",
        "--quick",
        "--static",
        "--workers",
    ],
    "conformance list": ["--json", "--numerics", "--ops", "--quick"],
    "conformance explain": ["requirement"],
    "conformance report": ["--output", "package"],
    "conformance compare": ["--json", "first", "second"],
    "conformance verify": ["--json", "package"],
    "conformance freeze": ["--check"],
    "conformance record": [
        "--backend",
        "--input-ids",
        "--max-new-tokens",
        "--out",
        "--speculative",
        "directory",
    ],
    "conformance mutants": ["--json", "--only", "--workers"],
    "conformance protections": ["--backend", "--json"],
    "conformance golden": ["--check", "--quick", "--workers", "--write"],
    "conformance export-onnx": ["--numerics", "--ops", "--opset", "--quick", "directory"],
    "conformance check-onnx": ["--claims", "--json", "--ops", "directory", "results"],
    "new-backend": ["--base", "--dir", "name"],
    "port status": ["--backend", "--json", "--numerics", "--watch"],
    "export-onnx": [
        "--digits",
        "--dtype",
        "--latent-eps",
        "--no-example",
        "--numerics",
        "--opset",
        "--positions",
        "directory",
        "out",
    ],
}


class Terminal(io.StringIO):
    """A stream that someone looks at."""

    def isatty(self) -> bool:
        return True


def _commands(group: Any, prefix: str = "") -> dict[str, list[str]]:
    """Options of every command by its full name."""
    found: dict[str, list[str]] = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= _commands(command, f"{prefix}{name} ")
        else:
            options = (option for parameter in command.params for option in parameter.opts)
            found[prefix + name] = sorted(options)
    return found


def test_commands_and_options_are_these() -> None:
    """A new one is promised to everybody from then on, so it is entered here on purpose."""
    assert _commands(cast(Any, typer.main.get_command(app))) == COMMANDS


@pytest.mark.parametrize("command", [[], *(name.split() for name in COMMANDS)])
def test_help_is_plain_text_outside_a_terminal(call: Call, command: list[str]) -> None:
    result = call(*command, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.stdout
    assert result.stdout.isascii()


def test_no_command_shows_help_as_an_error_of_usage(call: Call) -> None:
    result = call()
    assert result.exit_code == 2
    assert "make-checkpoint" in result.output


def test_unexpected_errors_keep_their_traceback(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(value: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(console, "print_json", explode)
    with pytest.raises(ZeroDivisionError):
        call("backends", "--json")
    assert failures.exit_code(ZeroDivisionError()) is None


def test_warnings_are_one_line_each_and_once(
    call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    call("params", "tiny")
    call("params", "tiny")
    logging.getLogger("glm5_hal").warning("look %s", "here")
    assert capsys.readouterr().err == "warning: look here\n"


@pytest.mark.parametrize(
    ("stream", "variables", "expected"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"CI": "true"}, False),
        (Terminal(), {"CI": ""}, True),
        (io.StringIO(), {}, False),
    ],
)
def test_rich_is_for_terminals_outside_ci(
    monkeypatch: pytest.MonkeyPatch,
    stream: io.StringIO,
    variables: dict[str, str],
    expected: bool,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert console.is_terminal(stream) is expected


def test_a_terminal_gets_tables_and_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout, stderr = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", "xterm")
    console.print_table(("name", "size"), [("[a]", "1")], right=("size",))
    with console.progress("loading") as advance:
        assert advance is not None
        advance(1, 2)
    console.fail("no [such] thing")
    assert "[a]" in stdout.getvalue()
    assert "\N{BOX DRAWINGS LIGHT HORIZONTAL}" in stdout.getvalue()
    assert "loading" in stderr.getvalue()
    assert "no [such] thing" in stderr.getvalue()


def test_a_table_is_aligned_outside_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(("name", "size"), [("a", "1"), ("bcdef", "100")], right=("size",))
    with console.progress("loading") as advance:
        assert advance is None
    captured = capsys.readouterr()
    assert captured.out == "name   size\na         1\nbcdef   100\n"
    assert captured.err == ""
