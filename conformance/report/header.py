"""Top of the page: the verdict, what was judged, and how many cases came out how."""

import re

from glm5_hal.conformance.report.markup import Html, join, tag, to_cases
from glm5_hal.conformance.report.reading import Run
from glm5_hal.conformance.report.statuses import LOOKS, ORDER, symbol
from glm5_hal.conformance.report.verdict import verdict_of
from glm5_hal.conformance.report.words import NOT_RECORDED, counted, in_words, time_in_words


def header(run: Run) -> Html:
    """The verdict in a banner, facts of the run, and its cases by status."""
    verdict = verdict_of(run)
    reasons = tag("ul", *(tag("li", reason) for reason in verdict.reasons))
    banner = tag(
        "div",
        tag("div", verdict.symbol, class_="sign", aria_hidden="true"),
        tag("h1", verdict.sentence),
        reasons,
        class_=f"verdict {verdict.style}",
    )
    eyebrow = tag("p", tag("b", "glm5-hal"), " conformance report", class_="eyebrow")
    return join((eyebrow, banner, _facts(run), _share(run), _chips(run)))


def _facts(run: Run) -> Html:
    must_pass = join((run.text("must_pass_list"), " ", _hash(run.text("must_pass_hash"))))
    pairs = [
        ("Backend", run.text("backend")),
        ("Device", run.text("device") + (", simulated" if run.simulated else "")),
        ("Profile", run.text("profile")),
        ("Suite version", _suite(run)),
        ("Contract version", run.text("contract_version")),
        ("Plan", _hash(run.text("plan_hash"))),
        ("Must-pass list", must_pass),
        ("Date", run.text("started").replace("T", " ").replace("+00:00", " UTC")),
        ("Duration", _duration(run)),
    ]
    items = (tag("div", tag("dt", key), tag("dd", value)) for key, value in pairs)
    return tag("dl", *items, class_="facts")


def _suite(run: Run) -> str:
    commit = run.at("commit")
    return run.text("suite_version") + (f" ({in_words(commit)[:10]})" if commit else "")


def _duration(run: Run) -> str:
    seconds = run.at("seconds")
    return time_in_words(seconds) if isinstance(seconds, int | float) else NOT_RECORDED


def _hash(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{32,}", text):
        return text
    return tag("code", text[:12], "…", title=text)


def _share(run: Run) -> Html:
    parts = (
        tag("span", class_=LOOKS[status].style, style=f"flex:{run.tally[status]}")
        for status in ORDER
        if run.tally[status]
    )
    return tag("div", *parts, class_="share", aria_hidden="true")


def _chips(run: Run) -> Html:
    chips = []
    for status in ORDER:
        look, number = LOOKS[status], run.tally[status]
        content = join((symbol(status), f" {look.label} ", tag("b", f"{number:,}")))
        if number:
            spoken = f"{counted(number, 'case')} {look.label}: show"
            chips.append(to_cases(content, spoken, look.style, status=status.value))
        else:
            chips.append(tag("span", content, class_="none"))
    return tag("ul", *(tag("li", chip) for chip in chips), class_="chips")
