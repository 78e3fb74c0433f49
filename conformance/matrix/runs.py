"""Evidence of a result package."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from glm5_hal.conformance import golden
from glm5_hal.conformance.case import Case, Result, Status
from glm5_hal.conformance.errors import AskedError, PackageError
from glm5_hal.conformance.manifest import suite_of
from glm5_hal.conformance.matrix.evidence import Cell, Evidence, Kind, State
from glm5_hal.conformance.package import Package
from glm5_hal.conformance.selection import Selection
from glm5_hal.conformance.sources import Source
from glm5_hal.conformance.suite import Suite
from glm5_hal.conformance.text import Matrix
from glm5_hal.conformance.verdict import BROKEN, JUDGED
from glm5_hal.conformance.verify import examine
from glm5_hal.levels import Numerics

Pair = tuple[str, str]
"""An op and an aspect."""


def of_package(package: Package, file: str, source: Source) -> Evidence:
    """What a package shows today.

    Raises:
        PackageError: it was altered, its suite was dirty, or ops ran on the CPU instead.
    """
    standing = examine(package, source)
    if standing.altered:
        raise PackageError("; ".join(standing.altered[:3]))
    manifest = package.manifest
    if manifest["dirty"]:
        raise PackageError(f"no evidence: the suite was dirty ({manifest['suite_state']})")
    _check_native(manifest["plan"])
    results = package.results
    old = _outdated(manifest, results, source)
    tallies = Matrix.of(results).cells
    cells = {pair: cell for pair in tallies if (cell := _cell(tallies[pair], pair in old))}
    return Evidence(
        backend=manifest["backend"],
        profile=manifest["profile"],
        kind=kind_of(manifest),
        scope=_scope(manifest),
        device=manifest["device"],
        date=manifest["ended"][:10],
        commit=manifest["commit"] or "",
        id=package.id,
        file=file,
        moment=manifest["ended"],
        cells=cells,
        remarks=tuple(_remarks(manifest, old)),
    )


def kind_of(manifest: Mapping[str, Any]) -> Kind:
    """How a run came about."""
    plan = manifest["plan"]
    if plan["simulated"]:
        return Kind.SIMULATED
    provider = plan["versions"].get("provider", "cpu")
    if manifest["machine"]["device"] != "cpu" or not provider.lower().startswith("cpu"):
        return Kind.HARDWARE
    # what Triton's kernels do to tensors of the CPU is interpretation
    return Kind.INTERPRETED if "triton" in plan["versions"] else Kind.CPU


def _check_native(plan: Mapping[str, Any]) -> None:
    substituted = [op for op, chosen in plan["ops"].items() if chosen["source"] == "substitute"]
    if substituted:
        raise PackageError(f"no evidence: ops ran on the CPU instead: {', '.join(substituted)}")


def _scope(manifest: Mapping[str, Any]) -> str:
    if manifest["partial"]:
        return "part"
    return "quick" if manifest["quick"] else "full"


def _cell(tally: Counter[Status], outdated: bool) -> Cell | None:
    """None where nothing was judged or declared: a case that was not run is no evidence."""
    judged = sum(tally[status] for status in JUDGED)
    if not judged:
        return Cell(State.DECLARED, 0, 0) if tally[Status.UNSUPPORTED] else None
    state = State.PASSED
    if outdated:
        state = State.OUTDATED
    elif any(tally[status] for status in BROKEN):
        state = State.BROKEN
    elif tally[Status.EXPECTED_FAIL]:
        state = State.WAIVED
    return Cell(state, tally[Status.PASS], judged)


def _outdated(
    manifest: Mapping[str, Any], results: tuple[Result, ...], source: Source
) -> set[Pair]:
    """The pairs in which the suite of today has gained or dropped cases, or has other digests.

    A case that left the selection and is still one of the suite's changes nothing.
    """
    everything = {(result.op, result.aspect) for result in results}
    if suite_of(manifest).name != Suite.here().name:
        return everything
    today = source.cases()
    try:
        wanted = _pairs(_selection(manifest).of(today).values())
    except AskedError:  # an op or an aspect that is gone
        return everything
    had = _pairs(results)
    profile = manifest["profile"]
    changed = (r for r in results if r.id not in today or _other_digests(r, profile))
    gained = {pair for pair in had if wanted.get(pair, set()) - had[pair]}
    return gained | {(result.op, result.aspect) for result in changed}


def _other_digests(result: Result, profile: str) -> bool:
    wanted = golden.of(result.id) if profile == Numerics.EXACT.value else None
    return bool(wanted and result.digests and dict(wanted) != result.digests)


def _selection(manifest: Mapping[str, Any]) -> Selection:
    return Selection(
        Numerics(manifest["profile"]),
        manifest["quick"],
        tuple(manifest["ops"]),
        manifest["case"],
        tuple(manifest["aspects"]),
    )


def _pairs(cases: Any) -> dict[Pair, set[str]]:
    """Ids of cases or results by pair."""
    found: dict[Pair, set[str]] = {}
    entry: Case | Result
    for entry in cases:
        found.setdefault((entry.op, entry.aspect), set()).add(entry.id)
    return found


def _remarks(manifest: Mapping[str, Any], old: set[Pair]) -> Iterator[str]:
    if manifest["partial"]:
        picked = [*manifest["aspects"], *manifest["ops"]]
        yield f"a part of the cases, which claims nothing: {' '.join(picked) or manifest['case']}"
    made_by = suite_of(manifest).name
    if made_by != Suite.here().name:
        yield f"made by suite {made_by}"
    elif old:
        ops = sorted({op for op, _ in old})
        most = ", ".join(ops[:4]) + (f" and {len(ops) - 4} more" if len(ops) > 4 else "")
        yield f"cases or golden digests have changed since: {most}"
    if manifest["waivers"]:
        yield f"waivers: {len(manifest['waivers'])}"
