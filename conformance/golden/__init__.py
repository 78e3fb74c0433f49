"""Golden digests: what every case of the exact profile leaves behind, on any chip.

They are made from the definitions (`glm5-hal conformance golden --write`), so that a run needs no
definition to judge bytes: it compares digests, and computes a definition only to show a difference.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from glm5_hal.conformance.case import Case
from glm5_hal.levels import Numerics

FILE = Path(__file__).parent / "exact.json"
MAKE = "`glm5-hal conformance golden --write` makes it"

Digests = Mapping[str, str]
"""SHA-256 by output name, as in `Evidence`."""


def parse(content: str) -> dict[str, dict[str, str]]:
    """Digests by case id."""
    found: dict[str, dict[str, str]] = json.loads(content)
    return found


def encode(digests: Mapping[str, Digests]) -> str:
    """The file: sorted, a case a line."""
    lines = [
        f"{json.dumps(name)}: {json.dumps(dict(digests[name]), sort_keys=True)}"
        for name in sorted(digests)
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def save(digests: Mapping[str, Digests], path: Path = FILE) -> None:
    """Replace the file, whole or not at all."""
    new = path.with_name(f".{path.name}")
    new.write_text(encode(digests), "utf-8")
    new.replace(path)
    known.cache_clear()


@functools.cache
def known(path: Path = FILE) -> Mapping[str, Digests]:
    """The digests of this version of the suite; none where none have been made yet."""
    return parse(path.read_text("utf-8")) if path.exists() else {}


_SET_ASIDE = [False]


@contextmanager
def set_aside() -> Iterator[None]:
    """Inside, no digest is known: while they are made or checked themselves."""
    before, _SET_ASIDE[0] = _SET_ASIDE[0], True
    try:
        yield
    finally:
        _SET_ASIDE[0] = before


def of(name: str) -> Digests | None:
    """The digests of a case; None where none are known."""
    return None if _SET_ASIDE[0] else known().get(name)


def problem(case: Case, found: Digests) -> str:
    """How a case's digests differ from the golden ones, in a sentence; empty if they do not."""
    if case.profile is not Numerics.EXACT or _SET_ASIDE[0]:
        return ""
    wanted = of(case.id)
    if wanted is None:
        return f"{case.id} has no golden digest; {MAKE}" if found else ""
    differing = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    if not differing:
        return ""
    return f"golden digest differs: {', '.join(differing)} of {len(wanted)} outputs"
