"""Ops by aspects: how many cases of each passed, and why columns are empty."""

from collections import Counter

from glm5_hal.conformance.case import ACCURACY, FUNCTION, GUARD, Status
from glm5_hal.conformance.report.markup import (
    Html,
    heading,
    join,
    paragraph,
    scrolling,
    tag,
    to_cases,
)
from glm5_hal.conformance.report.reading import Run
from glm5_hal.conformance.report.statuses import (
    LOOKS,
    ORDER,
    judged,
    symbol,
    tally_in_words,
    worst_of,
)
from glm5_hal.conformance.report.words import in_words
from glm5_hal.levels import Level

_MANDATORY = (FUNCTION, ACCURACY, GUARD, Level.RUN_TO_RUN.value)


def section(run: Run) -> Html:
    """A row an op, a column an aspect."""
    absent = {
        a for a in run.aspects if run.of_aspect(a).total() == run.of_aspect(a)[Status.NOT_RUN]
    }
    head = tag("thead", tag("tr", tag("th", "op", scope="col"), *_columns(run)))
    body = [_matrix_row(run, op, place, absent) for place, op in enumerate(run.ops)]
    foot = tag("tfoot", tag("tr", tag("th", "all", scope="row"), *_totals(run, absent)))
    table = tag("table", head, tag("tbody", *body), foot, class_="matrix")
    intro = "Passed of all cases; a cell looks like its worst case and leads to its cases."
    parts = (heading("matrix", "Ops and what was checked"), paragraph(intro), scrolling(table))
    return join((*parts, _legend(), _absences(run, absent)))


def _columns(run: Run) -> list[Html]:
    columns = []
    for aspect in run.aspects:
        standing = "claimed" if aspect in run.claimed else "not claimed"
        standing = "required" if aspect in _MANDATORY else standing
        columns.append(tag("th", _breakable(aspect), tag("small", standing), scope="col"))
    return columns


def _breakable(name: str) -> Html:
    return join(name.split("-"), Html("-<wbr>"))


def _matrix_row(run: Run, op: str, place: int, absent: set[str]) -> Html:
    cells = [tag("th", op, scope="row")]
    for aspect in run.aspects:
        if aspect not in absent:
            cells.append(tag("td", _cell(run.cells.get((op, aspect)), op, aspect)))
        elif place == 0:  # one cell for the whole column
            note = tag("span", "not run")
            cells.append(tag("td", note, class_="absent", rowspan=str(len(run.ops))))
    return tag("tr", *cells)


def _cell(tally: Counter[Status] | None, op: str, aspect: str) -> Html:
    worst = worst_of(tally)
    if tally is None or worst is None:
        return tag("span", "·", class_="empty", title="no case")
    look = LOOKS[worst]
    share = f"{tally[Status.PASS]}/{tally.total()}" if judged(tally) else look.label
    content = join((symbol(worst), f" {share}"))
    text = f"{op}, {aspect}: {tally_in_words(tally)}"
    return to_cases(content, text, look.style, op=op, aspect=aspect)


def _totals(run: Run, absent: set[str]) -> list[Html]:
    cells = []
    for aspect in run.aspects:
        tally = run.of_aspect(aspect)
        worst = worst_of(tally)
        if aspect in absent or worst is None:
            cells.append(tag("td", tag("span", "–", class_="empty")))
            continue
        content = join((symbol(worst), f" {tally[Status.PASS]:,}/{tally.total():,}"))
        text = f"all cases of {aspect}"
        cells.append(tag("td", to_cases(content, text, LOOKS[worst].style, aspect=aspect)))
    return cells


def _legend() -> Html:
    entries = [
        tag("span", symbol(status), f" {LOOKS[status].label}", class_="tally") for status in ORDER
    ]
    return tag("p", *entries, "· no case", class_="soft legend")


def _absences(run: Run, absent: set[str]) -> Html:
    """Why columns are empty."""
    notes = []
    for aspect in (name for name in run.aspects if name in absent):
        told = dict.fromkeys(r.message for r in run.results if r.aspect == aspect and r.message)
        planned = run.at("levels_without_cases", aspect)
        reasons = [in_words(planned)] if planned and not told else list(told)
        more = f", and {len(reasons) - 2} other reasons" if len(reasons) > 2 else ""
        reason = "; ".join(reasons[:2]) or "the results hold no case of it"
        notes.append(tag("li", tag("b", aspect), f" was not run: {reason}{more}"))
    return tag("ul", *notes, class_="notes") if notes else Html()
