"""The regression check: ratios to torch in the same run against committed ratios.

Absolute times differ from machine to machine and from day to day; what a call takes beside torch's
own on the same machine, minutes apart at most, differs far less. It still depends on the processor:
a baseline names the one that it was measured on.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from glm5_hal.conformance.bench.cases import OpCase
from glm5_hal.conformance.bench.results import OURS, OpResult, Report
from glm5_hal.conformance.errors import AskedError
from glm5_hal.contract import OPS

KIND = "glm5-hal bench baseline"
SCHEMA = 1
TOLERANCE = 1.5
"""A ratio may be this many times that of the baseline. Paired medians of a quiet machine stay
within some 10%; the rest is for processors that differ, and a lost kernel costs more than that."""
CONDITIONS = ("backend", "numerics", "dtype", "threads")


@dataclass(frozen=True)
class Baseline:
    """Ratios to hold.

    Attributes:
        tolerance: factor by which a ratio may be larger.
        conditions: settings that they were measured with (`CONDITIONS`).
        processor: that they were measured on, and its instruction sets.
        ratios: ours to torch's, by case.
    """

    tolerance: float
    conditions: Mapping[str, Any]
    processor: Mapping[str, Any]
    ratios: Mapping[OpCase, float]

    @classmethod
    def of(cls, report: Report) -> Self:
        """The ratios of a report's ops."""
        plan, where = report.where.plan, report.where
        conditions = {
            "backend": plan["backend"],
            "numerics": plan["numerics"],
            "dtype": report.settings["dtype"],
            "threads": where.threads,
        }
        processor = {"name": where.machine.cpu, "instruction_sets": list(where.instruction_sets)}
        ratios = {r.case: r.ratio.median for r in report.ops if r.ratio is not None}
        return cls(TOLERANCE, conditions, processor, ratios)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file.

        Raises:
            AskedError: it is missing, or not a baseline.
        """
        try:
            content = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise AskedError(f"{path} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise AskedError(f"{path} is not JSON ({error}); {_NEXT}") from None
        kind = content.get("kind") if isinstance(content, dict) else None
        if kind != KIND or content.get("schema") != SCHEMA:
            raise AskedError(f"{path} is no baseline of schema {SCHEMA}; {_NEXT}")
        try:
            ratios = {
                OpCase(row["op"], row["sizes"], row["expression"]): float(row["ratio"])
                for row in content["cases"]
            }
            conditions = {name: content["conditions"][name] for name in CONDITIONS}
            found = cls(float(content["tolerance"]), conditions, content["processor"], ratios)
        except (KeyError, TypeError, ValueError) as error:
            raise AskedError(f"{path} is a baseline with a defect: {error!r}; {_NEXT}") from None
        if unknown := sorted({case.op for case in ratios} - set(OPS)):
            raise AskedError(f"{path} names ops that do not exist: {', '.join(unknown)}; {_NEXT}")
        if not ratios:
            raise AskedError(f"{path} holds no case; {_NEXT}")
        return found

    def text(self) -> str:
        """The file."""
        content = {
            "kind": KIND,
            "schema": SCHEMA,
            "tolerance": self.tolerance,
            "conditions": dict(self.conditions),
            "processor": dict(self.processor),
            "cases": [
                {
                    "op": case.op,
                    "sizes": dict(case.sizes),
                    "expression": case.expression,
                    "ratio": round(ratio, 3),
                }
                for case, ratio in self.ratios.items()
            ],
        }
        return json.dumps(content, indent=1) + "\n"


_NEXT = "`glm5-hal bench --ops --baseline FILE` writes one"


@dataclass(frozen=True)
class Verdict:
    """What became of one case.

    Attributes:
        case: what was timed.
        wanted: ratio of the baseline.
        found: ratio now; None if it did not run.
        good: whether it is within the tolerance.
        reason: why it did not run; empty if it did.
    """

    case: OpCase
    wanted: float
    found: float | None
    good: bool
    reason: str = ""


def check(
    baseline: Baseline, measure: Callable[[Sequence[OpCase]], Sequence[OpResult]]
) -> list[Verdict]:
    """Measure every case of a baseline; what seems slower once more: its better ratio counts."""
    found = {v.case: v for v in _judged(baseline, measure(list(baseline.ratios)))}
    suspects = [case for case, verdict in found.items() if not verdict.good]
    for again in _judged(baseline, measure(suspects)) if suspects else ():
        if again.found is not None and again.found < (found[again.case].found or float("inf")):
            found[again.case] = again
    return list(found.values())


def _judged(baseline: Baseline, results: Sequence[OpResult]) -> list[Verdict]:
    verdicts = []
    for result in results:
        wanted, ratio = baseline.ratios[result.case], result.ratio
        if ratio is None:
            reason = result.not_run.get(OURS) or result.not_run.get(result.peer, "it has no peer")
            verdicts.append(Verdict(result.case, wanted, None, False, reason))
        else:
            good = ratio.median <= wanted * baseline.tolerance
            verdicts.append(Verdict(result.case, wanted, ratio.median, good))
    return verdicts
