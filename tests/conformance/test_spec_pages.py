"""The committed specification pages are those that the code makes."""

from pathlib import Path

from glm5_hal.conformance import spec

COMMITTED = Path(__file__).parents[2] / "docs" / "spec"


def test_pages_are_current() -> None:
    made = spec.pages()
    on_disk = {file.name: file.read_text() for file in COMMITTED.glob("*.md")}
    stale = sorted(
        name for name in made.keys() | on_disk.keys() if made.get(name) != on_disk.get(name)
    )
    assert not stale, f"run `python -m glm5_hal.conformance.spec docs/spec`: {stale}"


def test_a_page_names_every_requirement_of_its_op() -> None:
    page = spec.pages()["topk.md"]
    assert all(f"| TOPK-{n} |" in page for n in range(1, 6))
    assert "[T, k]" in page
    assert "def topk(" in page
