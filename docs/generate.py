"""Writes what the documentation repeats from the code, between markers in the files.

``python docs/generate.py`` writes; ``--check`` writes nothing and exits with 1 if a file is stale.
"""

import json
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from glm5_hal.cli.matrix import offered
from glm5_hal.conformance.audit.rules import RULES
from glm5_hal.conformance.audit.targets import targets
from glm5_hal.conformance.matrix import tables
from glm5_hal.conformance.matrix.files import FOLDER
from glm5_hal.conformance.matrix.matrix import Matrix
from glm5_hal.conformance.sources import SUITE
from glm5_hal.env import VARIABLES
from glm5_hal.registry import load, registered

ROOT = Path(__file__).parent.parent
_WORDS = {
    "array": "list",
    "boolean": "true or false",
    "integer": "number",
    "object": "mapping",
    "string": "text",
}


def environment() -> str:
    """The environment variables, as a Markdown table."""
    rows = ["| variable | values | unset | meaning |", "|---|---|---|---|"]
    rows += [f"| `{v.name}` | `{v.values}` | {v.default} | {v.meaning} |" for v in VARIABLES]
    return "\n".join(rows)


def backend_environment() -> str:
    """The environment variables that this package's backends declare, as a Markdown table."""
    rows = ["| backend | variable | values | unset | meaning |", "|---|---|---|---|---|"]
    for name, point in registered().items():
        if point.value.startswith("glm5_hal."):  # others may be installed here
            rows += [
                f"| `{name}` | `{v.name}` | `{v.values}` | {v.default} | {v.meaning} |"
                for v in load(name).variables
            ]
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


def backend_keys() -> str:
    """Every key of backend.yaml, as a Markdown table."""
    folder = resources.files("glm5_hal.backends.torch_triton")
    schema = json.loads(folder.joinpath("backend.schema.json").read_text("utf-8"))
    rows = ["| key | kind | must be there | meaning |", "|---|---|---|---|"]
    return "\n".join([*rows, *_keys(schema, "")])


def _keys(schema: dict[str, Any], above: str) -> Iterator[str]:
    """A row for each property, those inside it right after it."""
    for name, entry in schema["properties"].items():
        key = f"{above}{name}"
        needed = "yes" if name in schema.get("required", ()) else ""
        yield f"| `{key}` | {_kind(entry)} | {needed} | {entry['description']} |"
        if "properties" in entry:
            yield from _keys(entry, f"{key}.")
        elif "properties" in entry.get("items", {}):
            yield from _keys(entry["items"], f"{key}[].")


def _kind(entry: dict[str, Any]) -> str:
    kinds = entry.get("type", "string")
    if kinds == "array":
        inside = entry["items"].get("type", "object")
        return "list of mappings" if inside == "object" else f"list of {_WORDS[inside]}s"
    return " or ".join(_WORDS[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds))


def matrix() -> str:
    """The support matrix, of this package's evidence and backends."""
    return tables.markdown(Matrix.of(FOLDER, SUITE, offered(ours=True)))


PARTS: dict[str, Callable[[], str]] = {
    "environment": environment,
    "backend-environment": backend_environment,
    "audit-rules": audit_rules,
    "audit-targets": audit_targets,
    "backend-keys": backend_keys,
    "matrix": matrix,
}
FILES = (
    "README.md",
    "docs/audit.md",
    "docs/backend_yaml.md",
    "docs/environment.md",
    "docs/matrix.md",
)


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
