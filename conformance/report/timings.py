"""Time by op, and the slowest cases."""

from collections.abc import Mapping, Sequence

from glm5_hal.conformance.case import Result
from glm5_hal.conformance.report.markup import Html, data_table, heading, join, paragraph, tag
from glm5_hal.conformance.report.reading import Run
from glm5_hal.conformance.report.statuses import labelled
from glm5_hal.conformance.report.words import time_in_words


def section(run: Run) -> Html:
    """Shares of the time that cases took, by op, and the ten slowest."""
    spent: dict[str, float] = {}
    for result in run.results:
        spent[result.op] = spent.get(result.op, 0.0) + result.seconds
    total = sum(spent.values())
    title = heading("timings", "Time", f"{time_in_words(total)} in cases")
    slowest = sorted(run.results, key=lambda r: (-r.seconds, r.id))[:10]
    if not total:
        return join((title, paragraph("No time was spent in cases.")))
    by_op = (tag("h3", "By op"), _time_table(run, spent, total))
    by_case = (tag("h3", "Slowest cases"), _slow_table(slowest))
    return join((title, tag("div", tag("div", *by_op), tag("div", *by_case), class_="cols")))


def _time_table(run: Run, spent: Mapping[str, float], total: float) -> Html:
    longest = max(spent.values())
    rows = []
    for op in (name for name in run.ops if name in spent):
        bar = tag("i", style=f"width:{100 * spent[op] / longest:.1f}%")
        share = join((tag("span", bar, class_="gauge"), f"{100 * spent[op] / total:.1f} %"))
        rows.append((tag("code", op), time_in_words(spent[op]), tag("div", share, class_="bar")))
    return data_table(("op", "time", "share"), rows, right=(1,))


def _slow_table(results: Sequence[Result]) -> Html:
    rows = [(tag("code", r.id), time_in_words(r.seconds), labelled(r.status)) for r in results]
    return data_table(("case", "time", "status"), rows, right=(1,))
