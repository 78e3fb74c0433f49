"""Writes what the documentation repeats from the code, between markers in the files.

``python docs/generate.py`` writes; ``--check`` writes nothing and exits with 1 if a file is stale.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from glm5_hal.conformance.audit.rules import RULES
from glm5_hal.conformance.audit.targets import targets
from glm5_hal.env import VARIABLES

ROOT = Path(__file__).parent.parent


def environment() -> str:
    """The environment variables, as a Markdown table."""
    rows = ["| variable | values | unset | meaning |", "|---|---|---|---|"]
    rows += [f"| `{v.name}` | `{v.values}` | {v.default} | {v.meaning} |" for v in VARIABLES]
    return "\n".join(rows)


def audit_rules() -> str:
    """The audit's rules, as a Markdown table."""
    rows = ["| rule | kernels | requirement |", "|---|---|---|"]
    for name, rule in RULES.items():
        profile = rule.requirement.profile
        whose = "all" if profile is None else profile.value
        rows.append(f"| `{name}` | {whose} | {rule.requirement.text} |")
    return "\n".join(rows)


def audit_targets() -> str:
    """The audit's targets, as a Markdown table."""
    rows = ["| target | chips | shared memory | with Triton |", "|---|---|---|---|"]
    for target in targets().values():
        memory = f"{target.shared >> 10} KiB"
        rows.append(f"| `{target.name}` | {target.chips} | {memory} | {target.expected} |")
    return "\n".join(rows)


PARTS: dict[str, Callable[[], str]] = {
    "environment": environment,
    "audit-rules": audit_rules,
    "audit-targets": audit_targets,
}
FILES = ("README.md", "docs/audit.md", "docs/environment.md")


def rendered(text: str) -> str:
    """`text` with every generated part written anew."""
    for name, make in PARTS.items():
        begin, end = f"<!-- generated: {name} -->\n", f"<!-- end: {name} -->"
        if begin in text:
            before, rest = text.split(begin, 1)
            text = before + begin + make() + "\n" + end + rest.split(end, 1)[1]
    return text


def main() -> None:
    """Write the files, or with ``--check`` name the stale ones."""
    stale = []
    for path in (ROOT / name for name in FILES):
        old = path.read_text("utf-8")
        if (new := rendered(old)) != old:
            stale.append(path)
            if "--check" not in sys.argv:
                path.write_text(new, "utf-8")
    names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
    if "--check" not in sys.argv:
        print(f"written: {names or 'nothing, all files are current'}")
    elif stale:
        sys.exit(f"stale: {names}; run `nox -s docs`")


if __name__ == "__main__":
    main()
