"""Writes the table in docs/simulated.md: ``python docs/protections_table.py FILE.json ...``.

A file is what `glm5-hal conformance protections --json` prints; `nox -s simulated` makes one a
vendor.
"""

import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("simulated.md")
BEGIN, END = "<!-- generated: protections -->\n", "<!-- end: protections -->"


def table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """A row a protection, a column a vendor: how many cases fail without it, of how many."""
    protections: dict[str, Mapping[str, Any]] = {}
    for records in found.values():
        protections |= {record["protection"]: record for record in records}
    head = ("protection", "habit", "requirement", *found)
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, record in protections.items():
        asked = f"{record['requirement']} of {record['op']}, {record['numerics']}"
        cells = [_cell(records, name) for records in found.values()]
        rows.append("| " + " | ".join((name, record["against"], asked, *cells)) + " |")
    return rows


def _cell(records: Sequence[Mapping[str, Any]], protection: str) -> str:
    for record in records:
        if record["protection"] == protection:
            verdict = f"{len(record['caught'])} of {record['cases']}"
            return verdict if record["good"] else f"**{verdict}, {len(record['broken'])} with it**"
    return "–"


def main() -> None:
    """Read the files and write the page's part."""
    records = [json.loads(Path(name).read_text("utf-8")) for name in sys.argv[1:]]
    found = {record["backend"]: record["protections"] for record in records}
    parts = [f"Simulated, {datetime.date.today()}.", "", *table(found)]
    before, rest = PAGE.read_text("utf-8").split(BEGIN, 1)
    text = before + BEGIN + "\n".join(parts) + "\n" + END + rest.split(END, 1)[1]
    PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
