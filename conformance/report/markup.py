"""HTML elements: all text is escaped on its way in."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape


class Html(str):
    """Text that is HTML already; every other string is escaped on its way in."""

    __slots__ = ()


def _safe(part: str) -> str:
    return part if isinstance(part, Html) else escape(part)


def join(parts: Iterable[str], between: str = "") -> Html:
    """Parts one after another."""
    return Html(_safe(between).join(map(_safe, parts)))


def tag(name: str, *children: str, **attributes: str) -> Html:
    """An element. A trailing underscore in an attribute's name is dropped, others are hyphens."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value or key != "class_"
    )
    return Html(f"<{name}{given}>{join(children)}</{name}>")


def heading(ident: str, title: str, remark: str = "") -> Html:
    """The title of a section, which links lead to by `ident`."""
    small = tag("small", remark) if remark else Html()
    return tag("h2", title, small, id=ident)


def paragraph(text: str) -> Html:
    """A sentence or a few."""
    return tag("p", text, class_="soft")


def data_table(
    names: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: tuple[int, ...] = (),
    styles: Mapping[int, str] | None = None,
) -> Html:
    """A table that scrolls on its own; the first cell of a row is its header.

    Args:
        names: of the columns.
        rows: cells.
        right: columns of numbers.
        styles: class of a row, by its number.
    """
    numeric = [{"class_": "num"} if place in right else {} for place in range(len(names))]
    head = [tag("th", n, scope="col", **c) for n, c in zip(names, numeric, strict=True)]
    body = []
    for place, row in enumerate(rows):
        first = tag("th", row[0], scope="row", **numeric[0])
        rest = (tag("td", v, **c) for v, c in zip(row[1:], numeric[1:], strict=True))
        body.append(tag("tr", first, *rest, class_=(styles or {}).get(place, "")))
    return scrolling(tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body)))


def scrolling(table: Html) -> Html:
    """A table that scrolls on its own where the page is narrow."""
    return tag("div", table, class_="scroll", tabindex="0")


def to_cases(content: str, spoken: str, style: str = "", **chosen: str) -> Html:
    """A link that opens the list of cases with a filter; without scripts it leads to the list."""
    target = "all"
    if {"op", "aspect"} == chosen.keys():
        target = anchor_of(chosen["op"], chosen["aspect"])
    wanted = json.dumps(chosen, sort_keys=True)
    return tag("a", content, href=f"#{target}", class_=style, data_filter=wanted, aria_label=spoken)


def anchor_of(op: str, aspect: str) -> str:
    """Where the cases of an op and aspect begin in the list of all."""
    return "cases-" + re.sub(r"[^\w-]", "_", f"{op}-{aspect}")
