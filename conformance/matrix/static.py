"""Evidence of documents about code that was read and not run."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from glm5_hal.conformance.errors import PackageError
from glm5_hal.conformance.matrix.evidence import STATIC, Cell, Evidence, Kind, State
from glm5_hal.conformance.static_seal import DIGEST, check_seal, digest_of_files
from glm5_hal.conformance.suite import Suite
from glm5_hal.registry import registered

_GOOD = "ok"
_NOT_TAKEN = "not taken"


def of_document(content: bytes, file: str) -> list[Evidence]:
    """What a static document shows, one for each of its targets and profiles.

    A document has ``evidence`` ("static"), ``findings`` with ``op``, ``profile``, ``verdict``
    ("ok" is good) and, where there are several targets, ``target``; the compiler's or library's
    name and version as ``triton`` or ``compiler``; and what `static_seal.sealed` adds. ``kind``
    names the sort where it is neither an audit nor a lowering, ``backend`` whose it is where no
    table of tiles says so.

    Raises:
        PackageError: no such document, altered, or from a dirty suite.
    """
    document = _parsed(content)
    check_seal(document)
    if document["dirty"]:
        raise PackageError(f"no evidence: the suite was dirty ({document['suite_state']})")
    try:
        return list(_evidence(document, file))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PackageError(f"not as a static document is written: {error!r}") from error


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except ValueError as error:
        raise PackageError(f"no JSON: {error}") from error
    if not isinstance(document, dict) or document.get("evidence") != STATIC:
        raise PackageError(f'expected a document with "evidence": "{STATIC}"')
    return document


def _evidence(document: Mapping[str, Any], file: str) -> Iterator[Evidence]:
    findings = [f for f in document["findings"] if f["verdict"] != _NOT_TAKEN]
    remarks = tuple(_remarks(document))
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for finding in findings:
        target = str(finding.get("target") or document["target"])
        groups.setdefault((target, finding["profile"]), []).append(finding)
    for (target, profile), group in groups.items():
        yield Evidence(
            backend=_backend(document),
            profile=profile,
            kind=_kind(document),
            scope=target,
            device=_made_by(document),
            date=document["made"][:10],
            commit=document["commit"] or "",
            id=document[DIGEST],
            file=file,
            moment=document["made"],
            cells=_cells(group, bool(remarks)),
            remarks=remarks,
        )


def _cells(findings: list[Mapping[str, Any]], outdated: bool) -> dict[tuple[str, str], Cell]:
    cells = {}
    for op in dict.fromkeys(finding["op"] for finding in findings):
        verdicts = [finding["verdict"] for finding in findings if finding["op"] == op]
        good = verdicts.count(_GOOD)
        state = State.PASSED if good == len(verdicts) else State.BROKEN
        cells[op, STATIC] = Cell(State.OUTDATED if outdated else state, good, len(verdicts))
    return cells


def _kind(document: Mapping[str, Any]) -> Kind:
    if "kind" in document:
        return Kind(document["kind"])
    return Kind.AUDIT if "triton" in document else Kind.LOWERING


def _made_by(document: Mapping[str, Any]) -> str:
    return f"Triton {document['triton']}" if "triton" in document else str(document["compiler"])


def _backend(document: Mapping[str, Any]) -> str:
    """Whose tiles were compiled; nobody's if they are the portable ones."""
    if "backend" in document:
        return str(document["backend"])
    package, _, file = str(document["kernels"]).partition(":")
    if not file:
        raise PackageError(f"no evidence: it is about {document['kernels']}, which no backend runs")
    return next((n for n, p in registered().items() if p.module.startswith(f"{package}.")), "")


def _remarks(document: Mapping[str, Any]) -> Iterator[str]:
    if document["suite_version"] != Suite.here().version:
        yield f"made by version {document['suite_version']}"
    about = document["about"]
    if digest_of_files(about["files"]) != about["sha256"]:
        yield f"the code that was read has changed since: {', '.join(about['files'])}"
