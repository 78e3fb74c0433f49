"""Every requirement of the contract, and what its cases came to."""

from collections import Counter
from collections.abc import Sequence

from glm5_hal.conformance.case import Status
from glm5_hal.conformance.report.markup import (
    Html,
    data_table,
    heading,
    join,
    paragraph,
    tag,
    to_cases,
)
from glm5_hal.conformance.report.reading import MODEL, Run
from glm5_hal.conformance.report.statuses import LOOKS, ORDER, judged, symbol, worst_of
from glm5_hal.conformance.report.words import in_words, requirement_text
from glm5_hal.conformance.verdict import BROKEN
from glm5_hal.contract import CONTRACT_VERSION
from glm5_hal.requirements import REQUIREMENTS, op_of


def section(run: Run) -> Html:
    """A row a requirement; those without an executed case stand out."""
    tallies: dict[str, Counter[Status]] = {name: Counter() for name in REQUIREMENTS}
    for result in run.results:
        tallies.setdefault(result.requirement, Counter())[result.status] += 1
    silent = [name for name, tally in tallies.items() if not judged(tally)]
    broken = [name for name, tally in tallies.items() if worst_of(tally) in BROKEN]
    styles = {
        place: "missing" if name in silent else "broken" if name in broken else ""
        for place, name in enumerate(tallies)
    }
    rows = [_requirement_row(name, tally) for name, tally in tallies.items()]
    names = ("requirement", "op", "what it says", "cases", "outcome")
    title = heading("requirements", "Requirements", f"{len(tallies)}")
    remark = paragraph(" ".join((_coverage(len(tallies), silent), _other_contract(run))))
    return join((title, remark, data_table(names, rows, right=(3,), styles=styles)))


def _other_contract(run: Run) -> str:
    recorded = run.at("contract_version")
    if recorded in (None, CONTRACT_VERSION):
        return ""
    return (
        f"The run is of contract version {in_words(recorded)}; the sentences below are those of "
        f"version {CONTRACT_VERSION}."
    )


def _coverage(total: int, silent: Sequence[str]) -> str:
    if not silent:
        return f"All {total} have at least one executed case."
    names = ", ".join(silent) if len(silent) <= 12 else "they are marked below"
    return f"{len(silent)} of {total} have no executed case: {names}."


def _requirement_row(name: str, tally: Counter[Status]) -> tuple[str, ...]:
    outcomes = [
        tag(
            "span",
            symbol(s),
            f" {tally[s]:,} {LOOKS[s].label}",
            class_=f"tally {LOOKS[s].style}",
        )
        for s in ORDER
        if tally[s]
    ]
    if not judged(tally):
        outcomes.insert(0, tag("b", "no executed case", class_="tally"))
    number: str = f"{tally.total():,}"
    if tally.total():
        number = to_cases(number, f"Show the cases of {name}", "", text=f"^{name}/")
    op = op_of(name) or (MODEL if name.startswith("MODEL-") else "all")
    words = (tag("code", name, class_="nowrap"), tag("code", op, class_="nowrap"))
    return (*words, requirement_text(name), number, join(outcomes, " "))
