"""What `glm5-hal audit` found, as it travels in a result package: always called static.

Code was compiled for a chip and read; nothing was run. So it stands beside the cases of a run and
never counts as one of them.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glm5_hal.conformance.audit.auditing import Verdict
from glm5_hal.conformance.audit.rules import Status
from glm5_hal.conformance.errors import PackageError

EVIDENCE = "static"
STATUSES = tuple(status.value for status in Status)
CLEAN, NOT_TAKEN = Verdict.CLEAN.value, Verdict.KNOWN.value


@dataclass(frozen=True)
class Finding:
    """One kernel on one target.

    Attributes:
        kernel, op, target: what was compiled, for what.
        verdict: in one word, as the audit says it.
        rules: status by rule.
        broken: lines by rule that is broken.
    """

    kernel: str
    op: str
    target: str
    verdict: str
    rules: Mapping[str, str]
    broken: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class StaticEvidence:
    """An audit.

    Attributes:
        compiler: that made the code, with its version.
        kernels: which kernels, in words.
        rules: sentence by id.
        findings: every kernel on every target.
    """

    compiler: str
    kernels: str
    rules: Mapping[str, str]
    findings: tuple[Finding, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets that the compiler takes, in order."""
        found = (f.target for f in self.findings if f.verdict != NOT_TAKEN)
        return tuple(dict.fromkeys(found))

    @property
    def refused(self) -> tuple[str, ...]:
        """The targets that the compiler does not take."""
        found = (f.target for f in self.findings if f.verdict == NOT_TAKEN)
        return tuple(dict.fromkeys(found))

    def tally(self, rule: str, target: str) -> Counter[str]:
        """Kernels of a target by what a rule says of them."""
        return Counter(f.rules[rule] for f in self.findings if f.target == target)

    @property
    def broken(self) -> tuple[Finding, ...]:
        """What breaks a rule, or what the compiler refuses although it takes the target."""
        return tuple(f for f in self.findings if f.verdict not in (CLEAN, NOT_TAKEN))


def parse(content: bytes, source: str) -> StaticEvidence:
    """Read what ``glm5-hal audit --out`` wrote.

    Raises:
        PackageError: naming `source` and what is wrong with it.
    """
    try:
        document = json.loads(content)
    except ValueError as error:
        raise PackageError(f"{source}: no JSON: {error}") from error
    if not isinstance(document, dict) or document.get("evidence") != EVIDENCE:
        raise PackageError(
            f'{source}: expected the document of an audit, with "evidence": "{EVIDENCE}"; '
            "`glm5-hal audit --out FILE` writes one"
        )
    try:
        found = StaticEvidence(
            compiler=f"Triton {document['triton']}",
            kernels=document["kernels"],
            rules=dict(document["rules"]),
            findings=tuple(_finding(entry) for entry in document["findings"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise PackageError(f"{source}: not as an audit writes it: {error!r}") from error
    _check(found, source)
    return found


def _finding(entry: Mapping[str, Any]) -> Finding:
    rules: Mapping[str, Mapping[str, Any]] = entry["rules"]
    broken = Status.BROKEN.value
    return Finding(
        kernel=entry["kernel"],
        op=entry["op"],
        target=entry["target"],
        verdict=entry["verdict"],
        rules={rule: found["status"] for rule, found in rules.items()},
        broken={r: found["lines"] for r, found in rules.items() if found["status"] == broken},
    )


def _check(found: StaticEvidence, source: str) -> None:
    """That every finding judges every rule, and that its verdict follows."""
    for finding in found.findings:
        what = f"{source}: {finding.kernel} on {finding.target}"
        if finding.rules.keys() != found.rules.keys():
            raise PackageError(f"{what} does not judge the rules that the document lists")
        if unknown := set(finding.rules.values()) - set(STATUSES):
            raise PackageError(f"{what}: status {unknown.pop()!r}, expected {', '.join(STATUSES)}")
        if finding.verdict == CLEAN and finding.broken:
            raise PackageError(f"{what} is called ok and breaks {', '.join(finding.broken)}")
