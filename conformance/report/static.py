"""What an audit of generated code found, beside the run and never as part of it."""

from glm5_hal.conformance.audit.rules import Status
from glm5_hal.conformance.report.markup import Html, data_table, heading, join, paragraph, tag
from glm5_hal.conformance.report.reading import Run
from glm5_hal.conformance.report.words import counted
from glm5_hal.conformance.static_evidence import Finding, StaticEvidence

_SHOWN = (Status.PASSED.value, Status.BROKEN.value, Status.UNSEEN.value)


def section(run: Run) -> Html:
    """Rules by target, and what breaks them; one sentence where no audit is attached."""
    found = run.static
    if found is None:
        title = heading("static", "Static audit", "none")
        return join((title, paragraph("No audit of generated code is attached to this run.")))
    kernels = len({finding.kernel for finding in found.findings})
    title = heading("static", "Static audit", f"{counted(kernels, 'kernel')}, nothing was run")
    parts = [title, paragraph(_scope(found)), _rules(found)]
    if found.broken:
        parts += [tag("h3", "What breaks a rule"), _broken(found.broken)]
    return join(parts)


def _scope(found: StaticEvidence) -> str:
    said = (
        f"static: {found.compiler} compiled {found.kernels} for {', '.join(found.targets)}, and "
        "the code was read. A cell counts kernels that keep the rule, of those it is about."
    )
    if found.refused:
        said += f" The compiler does not take {', '.join(found.refused)}."
    return said


def _rules(found: StaticEvidence) -> Html:
    rows = []
    styles = {}
    for place, (rule, sentence) in enumerate(found.rules.items()):
        tallies = [found.tally(rule, target) for target in found.targets]
        cells = []
        for tally in tallies:
            passed, broken, unseen = (tally[status] for status in _SHOWN)
            left = f", {unseen} not judged" if unseen else ""
            cells.append(f"{passed} of {passed + broken}{left}" if passed + broken else f"–{left}")
        if any(tally[Status.BROKEN.value] for tally in tallies):
            styles[place] = "broken"
        rows.append((tag("code", rule, class_="nowrap"), sentence, *cells))
    names = ("requirement", "what it says", *found.targets)
    return data_table(names, rows, right=tuple(range(2, len(names))), styles=styles)


def _broken(findings: tuple[Finding, ...]) -> Html:
    rows = []
    for finding in findings:
        lines = [line for found in finding.broken.values() for line in found[:1]]
        rules = ", ".join(finding.broken) or finding.verdict
        shown = join((tag("code", line) for line in lines), " ")
        rows.append((tag("code", finding.kernel), finding.target, rules, shown))
    return data_table(("kernel", "target", "requirement", "first line"), rows)
