"""Checking a package again, on any machine: every hash, every count, every conclusion.

See `glm5_hal.conformance.package` for what this can and cannot find.
"""

import dataclasses
import datetime
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from glm5_hal.conformance import records
from glm5_hal.conformance.case import Result, Status
from glm5_hal.conformance.errors import ConformanceError
from glm5_hal.conformance.manifest import FORMAT, suite_of
from glm5_hal.conformance.mustpass import MustPass
from glm5_hal.conformance.package import (
    FILES,
    JUNIT_FILE,
    MUST_PASS_FILE,
    REPORT_FILE,
    WAIVERS_FILE,
    Package,
    render_junit,
    render_report,
)
from glm5_hal.conformance.runner import MANIFEST_FILE, RESULTS_FILE
from glm5_hal.conformance.selection import Selection
from glm5_hal.conformance.sources import SUITE, Source
from glm5_hal.conformance.suite import Suite
from glm5_hal.conformance.verdict import BROKEN, Shown, counts
from glm5_hal.conformance.waivers import Waivers
from glm5_hal.contract import OPS, Kind
from glm5_hal.levels import Level, Numerics
from glm5_hal.plan import hash_of


@dataclasses.dataclass(frozen=True)
class _Parts:
    """A package, read."""

    package: Package
    manifest: dict[str, Any]
    results: dict[str, Result]
    must_pass: MustPass
    waivers: Waivers
    selection: Selection
    suite: Suite

    @property
    def began(self) -> datetime.date:
        """The day by which waivers are judged."""
        return datetime.datetime.fromisoformat(self.manifest["started"]).date()

    @property
    def substituted(self) -> list[str]:
        """Ops that the CPU answered."""
        ops = self.manifest["plan"]["ops"]
        return [name for name, chosen in ops.items() if chosen["source"] == "substitute"]


@dataclasses.dataclass(frozen=True)
class Standing:
    """What is wrong with a package, in sentences.

    Attributes:
        altered: it is not what a run left behind.
        unfit: it claims nothing, or says that something failed.
        outdated: it was held against another must-pass list than this suite's.
    """

    altered: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()
    outdated: tuple[str, ...] = ()


def verify(package: Package, source: Source = SUITE) -> list[str]:
    """What is wrong with a package, in sentences; empty when it stands."""
    found = examine(package, source)
    return [*found.altered, *found.unfit, *found.outdated]


def examine(package: Package, source: Source = SUITE) -> Standing:
    """As `verify`, told apart."""
    try:
        if found := tuple(_files(package)):  # nothing that follows would mean anything
            return Standing(found)
        parts = _read(package, source)
        return Standing(
            *(
                tuple(problem for check in checks for problem in check(parts, source))
                for checks in (_ALTERED, _UNFIT, _OUTDATED)
            )
        )
    except ConformanceError as error:
        return Standing((str(error),))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said = f"the manifest is not of format {FORMAT}: {type(error).__name__}: {error}"
        return Standing((said,))


def _files(package: Package) -> Iterator[str]:
    listed = package.manifest["files"]
    for name in sorted({*FILES, *listed, *package.files} - {MANIFEST_FILE}):
        if name not in package.files:
            yield f"{name} is missing"
        elif name not in listed:
            yield f"{name} is not listed in the manifest"
        elif hashlib.sha256(package.files[name]).hexdigest() != listed[name]:
            yield f"{name} is not the file that was packed: its SHA-256 differs from the manifest's"


def _read(package: Package, source: Source) -> _Parts:
    manifest = package.manifest
    selection = Selection(
        Numerics(manifest["profile"]),
        manifest["quick"],
        tuple(manifest["ops"]),
        manifest["case"],
        tuple(manifest["aspects"]),
    )
    return _Parts(
        package=package,
        manifest=manifest,
        results=records.parse_all(package.files[RESULTS_FILE]),
        must_pass=MustPass.parse(selection.list_name, package.files[MUST_PASS_FILE]),
        waivers=Waivers.parse(package.files[WAIVERS_FILE]),
        selection=selection,
        suite=suite_of(manifest),
    )


def _format(parts: _Parts, source: Source) -> Iterator[str]:
    if parts.manifest["format"] != FORMAT:
        yield f"format {parts.manifest['format']}, this version reads {FORMAT}"


def _scope(parts: _Parts, source: Source) -> Iterator[str]:
    if parts.suite.dirty:
        yield f"claims nothing: the suite was dirty ({parts.suite.state})"
    if parts.selection.partial:
        yield "claims nothing: a partial selection"
    if parts.substituted:
        yield f"claims nothing: ops ran on the CPU instead: {', '.join(parts.substituted)}"


def _plan(parts: _Parts, source: Source) -> Iterator[str]:
    plan = parts.manifest["plan"]
    if hash_of(plan) != parts.manifest["plan_hash"]:
        yield "the plan's hash is not that of the plan"
    if plan["numerics"] != parts.selection.profile.value:
        yield f"the plan is {plan['numerics']}, the selection {parts.selection.profile.value}"
    if plan["backend"] != parts.manifest["backend"]:
        yield f"the plan is of {plan['backend']}, not of {parts.manifest['backend']}"


def _list(parts: _Parts, source: Source) -> Iterator[str]:
    named = parts.manifest["must_pass_list"], parts.manifest["must_pass_hash"]
    if named != (parts.must_pass.name, parts.must_pass.sha256):
        yield f"the manifest names another must-pass list than {MUST_PASS_FILE}"
    if not parts.selection.partial:
        yield from parts.must_pass.differences(parts.results)


def _list_of_today(parts: _Parts, source: Source) -> Iterator[str]:
    here = Suite.here()
    if parts.suite.name != here.name:
        yield (
            f"made by suite {parts.suite.name}, this is {here.name}: its must-pass list cannot be "
            f"compared; verify with glm5-hal {parts.suite.version}"
        )
    elif MustPass.load(parts.must_pass.name, source.lists) != parts.must_pass:
        yield f"the must-pass list is not the {parts.must_pass.name} of suite {here.name}"


def _statuses(parts: _Parts, source: Source) -> Iterator[str]:
    for result in parts.results.values():
        problem = _status_problem(result, parts)
        if problem:
            yield f"{result.id}: {problem}"


def _status_problem(result: Result, parts: _Parts) -> str:
    waiver = parts.waivers.of(result.id, parts.began)
    match result.status:
        case Status.PASS if waiver:
            return "passes, but is waived"
        case Status.EXPECTED_FAIL if not waiver:
            return "counts as an expected failure, but no waiver names it"
        case Status.UNSUPPORTED if not _may_be_missing(result.op, parts):
            return f"{result.op} may not be unsupported: not optional, or not declared"
        case Status.NOT_RUN if not _may_be_left_out(result.aspect, parts):
            return f"was not run, though {result.aspect} is mandatory or claimed"
        case _:
            return ""


def _broken(parts: _Parts, source: Source) -> Iterator[str]:
    for result in parts.results.values():
        if result.status in BROKEN:
            yield f"{result.id}: {result.status.value}: {result.message.partition(chr(10))[0]}"


def _may_be_missing(op: str, parts: _Parts) -> bool:
    optional = op in OPS and OPS[op].kind is Kind.OPTIONAL
    return optional and bool(parts.manifest["unsupported"].get(op))


def _may_be_left_out(aspect: str, parts: _Parts) -> bool:
    optional = {level.value for level in Level} - {Level.RUN_TO_RUN.value}
    return aspect in optional and aspect not in parts.manifest["claims"]


def _conclusions(parts: _Parts, source: Source) -> Iterator[str]:
    results = list(parts.results.values())
    if counts(results) != parts.manifest["counts"]:
        yield "the manifest's counts are not those of the results"
    if [waiver.to_dict() for waiver in parts.waivers.entries] != parts.manifest["waivers"]:
        yield f"the manifest's waivers are not those of {WAIVERS_FILE}"
    if parts.manifest["partial"] != parts.selection.partial:
        yield "the manifest's word on being partial is not that of its selection"
    shown = Shown.of(
        results,
        parts.must_pass,
        partial=parts.selection.partial,
        substituted=parts.substituted,
        dirty=parts.suite.dirty,
    )
    if shown.to_dict() != parts.manifest["shown"]:
        yield "what the manifest says is shown does not follow from the results"


def _renderings(parts: _Parts, source: Source) -> Iterator[str]:
    """What is made of the results must show them; another suite may draw it differently."""
    if parts.suite.source != Suite.here().source:
        return
    if render_report(parts.package).encode() != parts.package.files[REPORT_FILE]:
        yield f"{REPORT_FILE} is not the report of these results"
    if render_junit(parts.package) != parts.package.files[JUNIT_FILE]:
        yield f"{JUNIT_FILE} is not that of these results"


_Checks = tuple[Callable[[_Parts, Source], Iterator[str]], ...]
_ALTERED: _Checks = (_format, _plan, _list, _statuses, _conclusions, _renderings)
_UNFIT: _Checks = (_scope, _broken)
_OUTDATED: _Checks = (_list_of_today,)
