"""All cases in one table, and the fields that filter it."""

from collections.abc import Iterable, Iterator
from itertools import groupby

from glm5_hal.conformance.case import Result, Status
from glm5_hal.conformance.report.markup import (
    Html,
    anchor_of,
    heading,
    join,
    paragraph,
    scrolling,
    tag,
)
from glm5_hal.conformance.report.reading import Run
from glm5_hal.conformance.report.statuses import LOOKS, ORDER, labelled
from glm5_hal.conformance.report.words import counted, cut, time_in_words


def section(run: Run) -> Html:
    """The filter, then every case."""
    title = heading("cases", "All cases", f"{len(run.results):,}")
    if not run.results:
        return join((title, paragraph("There are none.")))
    names = ("status", "op", "aspect", "case", "time", "remark")
    head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in names)))
    groups = groupby(run.results, key=lambda r: (r.op, r.aspect))
    bodies = [tag("tbody", *_case_rows(list(members))) for _, members in groups]
    summary = tag("summary", f"Show all {counted(len(run.results), 'case')}")
    listed = tag("details", summary, scrolling(tag("table", head, *bodies)), id="all")
    return join((title, _filter(run), listed))


def _case_rows(members: list[Result]) -> Iterator[Html]:
    anchor = {"id": anchor_of(members[0].op, members[0].aspect)}
    for result in members:
        yield tag(
            "tr",
            tag("td", labelled(result.status), data_status=result.status.value),
            tag("td", result.op),
            tag("td", result.aspect),
            tag("td", result.id),
            tag("td", time_in_words(result.seconds)),
            tag("td", _remark(result)),
            **anchor,
        )
        anchor = {}


def _remark(result: Result) -> str:
    """What was found; for a passed case its digests, shortened."""
    if result.status is Status.PASS and not result.message:
        return ", ".join(f"{name} {digest[:12]}" for name, digest in result.digests.items())
    message = cut(result.message, 400)
    return f"{message} (changed: {result.change})" if result.change else message


_INPUT = '<input id="f-text" type="search" autocomplete="off">'


def _filter(run: Run) -> Html:
    statuses = [(s.value, LOOKS[s].label) for s in ORDER if run.tally[s]]
    present = {result.op for result in run.results}
    aspects = {result.aspect for result in run.results}
    fields = (
        _select("f-op", "Op", [(op, op) for op in run.ops if op in present]),
        _select("f-aspect", "Aspect", [(a, a) for a in run.aspects if a in aspects]),
        _select("f-status", "Status", statuses),
        tag("label", "Text (^ for the start of a case id)", Html(_INPUT), class_="grow"),
        tag("button", "Clear", type="button", id="f-reset"),
        tag("span", id="shown", role="status"),
    )
    return tag(
        "div", *fields, class_="filter", id="filter", role="search", aria_label="Cases", hidden=""
    )


def _select(ident: str, label: str, options: Iterable[tuple[str, str]]) -> Html:
    choices = [tag("option", text, value=value) for value, text in (("", "any"), *options)]
    return tag("label", label, tag("select", *choices, id=ident))
