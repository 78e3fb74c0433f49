"""What makes a static document evidence: when, from which source, of what, and a digest over it."""

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from glm5_hal.conformance.errors import PackageError
from glm5_hal.conformance.manifest import suite_facts
from glm5_hal.conformance.suite import Suite, source_files

DIGEST = "digest"
KERNELS = "glm5_hal/kernels/triton/"


def sealed(document: Mapping[str, Any], about: Iterable[str]) -> dict[str, Any]:
    """The document with its date, the suite that made it, and a digest.

    Args:
        document: plain data for JSON, with ``"evidence": "static"``.
        about: paths in the wheel, or what they begin with, of the files that it speaks of: it is
            outdated when one of them changes.
    """
    prefixes = sorted(set(filter(None, about)))
    whole = {
        **document,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **suite_facts(Suite.here()),
        "about": {"files": prefixes, "sha256": digest_of_files(prefixes)},
    }
    return {**whole, DIGEST: _digest(whole)}


def table_file(table: str) -> str:
    """Path in the wheel of ``PACKAGE:FILE``; empty of what is no such place."""
    package, _, file = table.partition(":")
    return f"{package.replace('.', '/')}/{file}" if file else ""


def check_seal(document: Mapping[str, Any]) -> None:
    """That a document is as it was sealed.

    Raises:
        PackageError: it is not.
    """
    rest = {name: value for name, value in document.items() if name != DIGEST}
    if DIGEST not in document:
        raise PackageError(f"it has no {DIGEST!r}: this version's commands write one")
    if _digest(rest) != document[DIGEST]:
        raise PackageError("it is not as it was written: its digest is another")


def digest_of_files(prefixes: Iterable[str]) -> str:
    """SHA-256 over path and content of the package's files that begin with one of `prefixes`."""
    begins = tuple(prefixes)
    total = hashlib.sha256()
    for name, path in source_files().items():
        if name.startswith(begins):
            total.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
