"""The reports of the committed result packages, as they lie in them, and a list of them.

``python docs/tools/reports.py DIR`` writes ``DIR/reports``.
"""

import json
import sys
import tarfile
from pathlib import Path

from glm5_hal.conformance.runner import MANIFEST_FILE

EVIDENCE = Path(__file__).parents[2] / "conformance" / "evidence"
HEAD = """# Reports of real runs

The reports of the result packages in `conformance/evidence`, as they were packed.
[Read a report](../verify/report.md) says what to look at.

| report | profile | list | device | date |
|---|---|---|---|---|
"""


def unpacked(path: Path) -> tuple[bytes, dict[str, str]]:
    """The report of a package, and its manifest."""
    with tarfile.open(path, "r:xz") as archive:
        found = {Path(entry.name).name: archive.extractfile(entry) for entry in archive}
        report, manifest = found["report.html"], found[MANIFEST_FILE]
        assert report is not None
        assert manifest is not None
        return report.read(), json.loads(manifest.read())


def main() -> None:
    """Write the pages."""
    folder = Path(sys.argv[1]) / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for path in sorted(EVIDENCE.glob("*/*.tar.xz")):
        report, manifest = unpacked(path)
        name = f"{path.parent.name}-{path.name.removesuffix('.tar.xz')}.html"
        (folder / name).write_bytes(report)
        link = f"[{manifest['backend']}]({name})"
        partial = "a part, claims nothing" if manifest["partial"] else manifest["must_pass_list"]
        cells = (link, manifest["profile"], partial, manifest["device"], manifest["ended"][:10])
        rows.append(f"| {' | '.join(cells)} |\n")
    (folder / "index.md").write_text(HEAD + "".join(rows), "utf-8")


if __name__ == "__main__":
    main()
