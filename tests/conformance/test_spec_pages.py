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


def test_pages_define_the_exact_profile() -> None:
    pages = spec.pages()
    section = pages["linear.md"].partition("## Exact profile")[2]
    assert "| LINEAR-EXACT-1 |" in section
    assert "def fixed_point(" in section
    assert "LINEAR-EXACT-1" not in pages["linear.md"].partition("## Exact profile")[0]
    assert "Defined by its composition" in pages["mla.md"]
    assert "Not part of it: " in pages["mla_expanded.md"]
    assert "moves or orders values" in pages["topk.md"].partition("## Exact profile")[2]
    assert "It exists in the exact profile only." in pages["linear_limbs.md"]
    general, _, exact = pages["general.md"].partition("## Exact profile")
    assert "EXACT-" not in general
    assert "| EXACT-FIXED-1 |" in exact


def test_a_page_names_every_requirement_of_its_op() -> None:
    page = spec.pages()["topk.md"]
    assert all(f"| TOPK-{n} |" in page for n in range(1, 6))
    assert "[T, k]" in page
    assert "def topk(" in page
