"""Failures by requirement, with the bits that differ and the command that repeats them."""

import re
from collections.abc import Sequence
from itertools import groupby

from glm5_hal.conformance.case import Result
from glm5_hal.conformance.compare import Difference
from glm5_hal.conformance.records import difference_of
from glm5_hal.conformance.report.markup import Html, heading, join, paragraph, tag, to_cases
from glm5_hal.conformance.report.reading import Run
from glm5_hal.conformance.report.statuses import LOOKS, judged, symbol
from glm5_hal.conformance.report.words import counted, cut, requirement_text
from glm5_hal.conformance.verdict import BROKEN
from glm5_hal.requirements import REQUIREMENTS

OPEN_GROUPS = 8
"""Groups of failures whose first case stands open."""
DETAILED = 200
"""Failures given in full; further ones are counted and stand in the list of all cases."""


def section(run: Run) -> Html:
    """Failures in groups, the first case of each group in full."""
    failures = [result for result in run.results if result.status in BROKEN]
    if not failures:
        nothing = "No case failed." if judged(run.tally) else "No case was executed."
        return join((heading("failures", "Failures", "0"), paragraph(nothing)))
    intro = "By requirement, in the order of the contract. The first of each is the one to look at."
    parts = [heading("failures", "Failures", f"{len(failures):,}"), paragraph(intro)]
    found = groupby(_by_requirement(failures), key=lambda r: (r.op, r.requirement))
    groups = [(op, requirement, list(cases)) for (op, requirement), cases in found]
    spare = max(0, DETAILED - len(groups))  # the first of each group, then what there is room for
    for place, (op, requirement, cases) in enumerate(groups):
        detailed = cases[: 1 + spare] if place < DETAILED else []
        spare -= max(0, len(detailed) - 1)
        parts.append(_group(op, requirement, cases, detailed, opened=place < OPEN_GROUPS))
    return join(parts)


def _by_requirement(results: Sequence[Result]) -> list[Result]:
    ops = list(dict.fromkeys(result.op for result in results))
    order = list(REQUIREMENTS)

    def key(result: Result) -> tuple[int, int, str]:
        place = order.index(result.requirement) if result.requirement in order else len(order)
        return ops.index(result.op), place, result.requirement

    return sorted(results, key=key)


def _group(
    op: str, requirement: str, cases: list[Result], detailed: list[Result], *, opened: bool
) -> Html:
    name = f"{counted(len(cases), 'case')} of {op}"
    count = to_cases(name, f"Show the {name}", "count", op=op, text=f"^{requirement}/")
    title = tag("h3", count, tag("b", requirement), requirement_text(requirement))
    parts = [
        _failure(result, opened=opened and place == 0) for place, result in enumerate(detailed)
    ]
    if rest := len(cases) - len(detailed):
        more = f"{counted(rest, 'more case')} in the list of all cases"
        link = to_cases(more, more, "", op=op, text=f"^{requirement}/")
        parts.append(tag("div", tag("p", link), class_="body"))
    return tag("section", title, *parts, class_="group")


def _failure(result: Result, *, opened: bool) -> Html:
    look, difference = LOOKS[result.status], difference_of(result)
    # a message that ends in the difference would say it twice
    message = result.message.removesuffix(f": {difference}")
    pairs = [
        ("Found", cut(message, 4000)),
        ("Worst error", "" if result.worst is None else f"{result.worst:.3g} of its bound"),
        ("Changed", result.change or "nothing: the plain call"),
        *(_where_and_how(difference) if difference else ()),
        ("Hint", result.hint),
    ]
    shown = [part for pair in pairs if pair[1] for part in zip(("dt", "dd"), pair, strict=True)]
    body = [tag("dl", *(tag(name, text) for name, text in shown))]
    if difference:
        body.append(_bit_table(difference))
    if result.reproduce:
        body.append(tag("div", tag("pre", tag("code", result.reproduce)), class_="run"))
    name = tag("span", symbol(result.status), f" {look.label} ", class_=look.style)
    brief = tag("span", _share_of(difference) or message[:90], class_="soft brief")
    summary = tag("summary", name, tag("code", result.id), " ", brief)
    state = {"open": ""} if opened else {}
    return tag("details", summary, tag("div", *body, class_="body"), class_="case", **state)


def _where_and_how(difference: Difference) -> list[tuple[str, str]]:
    index = tag("code", str(list(difference.index)))
    place = join((f"output {difference.output} at ", index))
    return [
        ("First difference", place if difference.index else "shape or dtype"),
        ("Distance", "" if difference.ulp is None else f"{difference.ulp:,} ULP"),
        ("How many differ", _share_of(difference)),
        ("Pattern", difference.note),
    ]


def _share_of(difference: Difference | None) -> str:
    if difference is None or not difference.total:
        return ""
    share = 100 * difference.differing / difference.total
    return f"{difference.differing:,} of {difference.total:,} elements differ ({share:.3g} %)"


_WORD = re.compile(r"0x([0-9a-f]+) \((.*)\)", re.DOTALL)


def _bit_table(difference: Difference) -> Html:
    """Both bit patterns, the differing bits marked; or both texts when they are no patterns."""
    texts = {"expected": difference.expected, "found": difference.found}
    words = {key: _WORD.fullmatch(text) for key, text in texts.items()}
    digits = [word[1] for word in words.values() if word]
    rows = []
    for key, word in words.items():
        cells: tuple[str, ...] = (texts[key],)
        if word and len({len(other) for other in digits}) == 1 and len(digits) == 2:
            changed = int(digits[0], 16) ^ int(digits[1], 16)
            cells = (word[2], f"0x{word[1]}", _marked(word[1], changed))
        rows.append(tag("tr", tag("th", key, scope="row"), *(tag("td", c) for c in cells)))
    table = tag("table", tag("tbody", *rows), class_="bits")
    return tag("div", table, class_="bitbox", tabindex="0")


def _marked(digits: str, changed: int) -> Html:
    """Bits in groups of four, those in `changed` marked."""
    width = 4 * len(digits)
    parts: list[str] = []
    for place, bit in enumerate(f"{int(digits, 16):0{width}b}"):
        if place and place % 4 == 0:
            parts.append(" ")
        parts.append(tag("mark", bit) if changed >> (width - 1 - place) & 1 else bit)
    return join(parts)
