"""Results in words: the block that teaches why a case failed, and the matrix of op and aspect."""

import inspect
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from glm5_hal.conformance.case import ASPECTS, Case, Result, Status
from glm5_hal.conformance.records import difference_of
from glm5_hal.conformance.verdict import BROKEN, JUDGED
from glm5_hal.contract import OPS
from glm5_hal.requirements import REQUIREMENTS, op_of

_LABEL = 10
LEGEND = "passed/judged, ✗ broken, w waived, – no case, · not run, n/a declared unsupported"


def teach(result: Result) -> str:
    """What a failing case says: the requirement, what broke it, where, and how to see it again."""
    lines = [f"{result.status.value} {result.id}  ({result.aspect} of {result.op})"]

    def add(label: str, text: str) -> None:
        if text:
            first, *rest = text.splitlines()
            lines.append(f"  {label:<{_LABEL}}{first}")
            lines.extend(" " * (_LABEL + 2) + line for line in rest)

    known = REQUIREMENTS.get(result.requirement)
    add("requires", f"{result.requirement}: {known.text if known else '(not in this version)'}")
    difference = difference_of(result)
    # a message that ends in the difference would say it twice
    add("found", result.message.removesuffix(f": {difference}"))
    add("changed", result.change)
    if difference is not None:
        place = f"output {difference.output} at {list(difference.index)}"
        add("first at", place if difference.index else "its shape or dtype")
        add("expected", difference.expected)
        add("got", difference.found)
        apart = "" if difference.ulp is None else f"{difference.ulp} ULP apart; "
        share = f"{difference.differing} of {difference.total} elements differ"
        add("how much", apart + share if difference.total else apart)
        add("pattern", difference.note)
    add("hint", result.hint)
    add("again", result.reproduce)
    return "\n".join(lines)


@dataclass(frozen=True)
class Matrix:
    """Counts of statuses by op and aspect.

    Attributes:
        ops: rows, in the order of the results.
        aspects: columns, in the order of `ASPECTS`.
        cells: statuses of each pair that has results.
    """

    ops: tuple[str, ...]
    aspects: tuple[str, ...]
    cells: dict[tuple[str, str], Counter[Status]]

    @classmethod
    def of(cls, results: Iterable[Result]) -> "Matrix":
        """Count."""
        cells: dict[tuple[str, str], Counter[Status]] = {}
        for result in results:
            cells.setdefault((result.op, result.aspect), Counter())[result.status] += 1
        present = {aspect for _, aspect in cells}
        aspects = tuple(aspect for aspect in ASPECTS if aspect in present)
        return cls(tuple(dict.fromkeys(op for op, _ in cells)), aspects, cells)

    def cell(self, op: str, aspect: str) -> str:
        """One cell in a few characters; `LEGEND` explains them."""
        found = self.cells.get((op, aspect))
        if found is None:
            return "–"
        judged = sum(found[status] for status in JUDGED)
        if not judged:
            return "n/a" if found[Status.UNSUPPORTED] else "·"
        broken = sum(found[status] for status in BROKEN)
        waived = found[Status.EXPECTED_FAIL]
        return (
            f"{found[Status.PASS]}/{judged}"
            + (f" ✗{broken}" if broken else "")
            + (f" w{waived}" if waived else "")
        )

    def rows(self) -> list[tuple[str, ...]]:
        """The table, an op a row."""
        return [(op, *(self.cell(op, aspect) for aspect in self.aspects)) for op in self.ops]


def explain(requirement: str, cases: Sequence[Case]) -> str:
    """A requirement: its sentence, its op's signature, docstring and source, its cases."""
    lines = [f"{requirement}: {REQUIREMENTS[requirement].text}", ""]
    name = op_of(requirement)
    if name is not None:
        op = OPS[name]
        lines += [f"{name} is a {op.kind.value} op; its definition:", ""]
        lines += inspect.getsource(op.reference).rstrip().splitlines()
        lines.append("")
        if op.exact_rule is not None:
            lines += ["and in the exact profile:", ""]
            lines += inspect.getsource(op.exact_rule).rstrip().splitlines()
            lines.append("")
    lines.append(f"{len(cases)} cases:")
    lines += [f"  {case.id}  ({case.aspect} of {case.op})" for case in cases]
    return "\n".join(lines)
