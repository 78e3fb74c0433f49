"""The command line as a page, and the exit codes, made from the commands themselves.

``python docs/tools/commands.py DIR`` writes ``DIR/reference``.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from glm5_hal.cli import app
from glm5_hal.cli.failures import ExitCode

CODES = {
    ExitCode.GOOD: "It did what it was asked, and found nothing wrong.",
    ExitCode.FAILED: "It ran, and what it judged failed: a case, a package, a comparison.",
    ExitCode.USAGE: "What was asked does not exist or does not fit: an option, a file, a variable, "
    "a configuration.",
    ExitCode.UNUSABLE: "The environment cannot run what was asked, or nothing ran. A run that "
    "judges no case never passes.",
}


def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its full name."""
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from walk(below, (*path, name))
    else:
        yield " ".join(path), command


def described(name: str, command: Any) -> str:
    """One command: its usage, its text, its arguments and options."""
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [f"## {name}", f"```text\n{name} {usage}\n```", command.help or ""]
    rows = [found for p in command.params if (found := p.get_help_record(context)) is not None]
    if rows:
        table = ["| option | meaning |", "|---|---|"]
        table += [f"| `{_cell(option)}` | {_cell(text)} |" for option, text in rows]
        parts.append("\n".join(table))
    return "\n\n".join(part for part in parts if part)


def _cell(text: str) -> str:
    plain = " ".join(text.split())
    return plain.replace("|", "\\|")


def commands() -> str:
    """The page of the command line."""
    root = typer.main.get_command(app)
    found = [described(name, command) for name, command in walk(root, ("glm5-hal",))]
    head = (
        "# Command line\n\nMade from the commands. `--json`, where a command has it, prints JSON "
        "and nothing else on stdout. What a command returns is one of the "
        "[exit codes](exit-codes.md)."
    )
    return "\n\n".join((head, *found)) + "\n"


def exit_codes() -> str:
    """The page of the exit codes."""
    rows = ["| code | meaning |", "|---|---|"]
    rows += [f"| {int(code)} | {CODES[code]} |" for code in ExitCode]
    rows += ["| 130 | Interrupted. `conformance run --out DIR` resumes by the same command. |"]
    return "# Exit codes\n\nOf every `glm5-hal` command.\n\n" + "\n".join(rows) + "\n"


def main() -> None:
    """Write the pages."""
    folder = Path(sys.argv[1]) / "reference"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "commands.md").write_text(commands(), "utf-8")
    (folder / "exit-codes.md").write_text(exit_codes(), "utf-8")


if __name__ == "__main__":
    main()
