"""The report of a run: one HTML file that needs nothing else.

The manifest is that of `glm5_hal.conformance.manifest`. What is absent from it is shown as not
recorded, and what contradicts the results is said: a report never shows more than the results do.
Read are ``suite_version``, ``commit``, ``dirty``, ``suite_state``, ``contract_version``,
``profile``, ``quick``, ``partial``, ``plan``, ``plan_hash``, ``backend``, ``device``, ``claims``,
``shown``, ``counts``, ``started``, ``seconds``, ``must_pass_list``, ``must_pass_hash``,
``levels_without_cases``, ``waivers``, ``unsupported``, ``warnings``, ``versions``, ``machine``,
``environment`` and ``files``; the whole manifest stands at the end of the report.
"""

import base64
import hashlib
import json
import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from html import escape
from importlib.resources import files
from itertools import groupby
from string import Template

from glm5_hal.conformance.case import ACCURACY, ASPECTS, FUNCTION, GUARD, Result, Status
from glm5_hal.conformance.compare import Difference
from glm5_hal.conformance.records import difference_of
from glm5_hal.conformance.verdict import BROKEN, JUDGED
from glm5_hal.contract import CONTRACT_VERSION, OPS
from glm5_hal.levels import Level
from glm5_hal.requirements import REQUIREMENTS, op_of

MODEL = "model"
OPEN_GROUPS = 8
"""Groups of failures whose first case stands open."""
DETAILED = 200
"""Failures given in full; further ones are counted and stand in the list of all cases."""

MOST_BARS = 12
"""Of a histogram, besides the one of correctly rounded elements."""

_MANDATORY = (FUNCTION, ACCURACY, GUARD, Level.RUN_TO_RUN.value)
_NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class _Look:
    """How a status appears: never by colour alone."""

    symbol: str
    style: str
    label: str


_LOOKS = {
    Status.CRASH: _Look("‼", "fail", "crashed"),
    Status.FAIL: _Look("✗", "fail", "failed"),
    Status.TIMEOUT: _Look("∞", "fail", "timed out"),
    Status.EXPECTED_FAIL: _Look("≈", "warn", "expected to fail"),
    Status.UNSUPPORTED: _Look("○", "none", "unsupported"),
    Status.NOT_RUN: _Look("–", "none", "not run"),
    Status.PASS: _Look("✓", "pass", "passed"),
}
"""The worst first: a cell of the matrix looks like its worst case."""

_ORDER = (Status.PASS, *(status for status in _LOOKS if status is not Status.PASS))


# --- HTML ---


class _Html(str):
    """Text that is HTML already; every other string is escaped on its way in."""

    __slots__ = ()


def _safe(part: str) -> str:
    return part if isinstance(part, _Html) else escape(part)


def _join(parts: Iterable[str], between: str = "") -> _Html:
    return _Html(_safe(between).join(map(_safe, parts)))


def _tag(name: str, *children: str, **attributes: str) -> _Html:
    """An element. A trailing underscore in an attribute's name is dropped, others are hyphens."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value or key != "class_"
    )
    return _Html(f"<{name}{given}>{_join(children)}</{name}>")


def _symbol(status: Status) -> _Html:
    return _tag("span", _LOOKS[status].symbol, class_="sym", aria_hidden="true")


def _heading(ident: str, title: str, remark: str = "") -> _Html:
    small = _tag("small", remark) if remark else _Html()
    return _tag("h2", title, small, id=ident)


def _paragraph(text: str) -> _Html:
    return _tag("p", text, class_="soft")


def _table(
    names: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: tuple[int, ...] = (),
    styles: Mapping[int, str] | None = None,
) -> _Html:
    """A table that scrolls on its own; the first cell of a row is its header.

    Args:
        names: of the columns.
        rows: cells.
        right: columns of numbers.
        styles: class of a row, by its number.
    """
    numeric = [{"class_": "num"} if place in right else {} for place in range(len(names))]
    head = [_tag("th", n, scope="col", **c) for n, c in zip(names, numeric, strict=True)]
    body = []
    for place, row in enumerate(rows):
        first = _tag("th", row[0], scope="row", **numeric[0])
        rest = (_tag("td", v, **c) for v, c in zip(row[1:], numeric[1:], strict=True))
        body.append(_tag("tr", first, *rest, class_=(styles or {}).get(place, "")))
    return _scroll(_tag("table", _tag("thead", _tag("tr", *head)), _tag("tbody", *body)))


def _scroll(table: _Html) -> _Html:
    return _tag("div", table, class_="scroll", tabindex="0")


def _to_cases(content: str, spoken: str, style: str = "", **chosen: str) -> _Html:
    """A link that opens the list of cases with a filter; without scripts it leads to the list."""
    target = "all"
    if {"op", "aspect"} == chosen.keys():
        target = _anchor(chosen["op"], chosen["aspect"])
    wanted = json.dumps(chosen, sort_keys=True)
    return _tag(
        "a", content, href=f"#{target}", class_=style, data_filter=wanted, aria_label=spoken
    )


def _anchor(op: str, aspect: str) -> str:
    return "cases-" + re.sub(r"[^\w-]", "_", f"{op}-{aspect}")


# --- reading what was given ---


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _items(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []


def _text(value: object) -> str:
    """A manifest value in words; empty where there is none."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(inner)}" for key, inner in sorted(value.items()))
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _upper(sentence: str) -> str:
    return f"{sentence[:1].upper()}{sentence[1:].rstrip('.')}."


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} … ({len(text):,} characters)"


def _seconds(value: float) -> str:
    if value >= 90:
        minutes, seconds = divmod(round(value), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
    return f"{value:.1f} s" if value >= 10 else f"{value:.3g} s"


@dataclass(frozen=True)
class _Run:
    """Manifest and results, in the order of the report whatever order they came in."""

    manifest: Mapping[str, object]
    results: tuple[Result, ...]

    @classmethod
    def of(cls, manifest: Mapping[str, object], results: Sequence[Result]) -> "_Run":
        """Sorted by op, aspect and id."""
        ops = {name: place for place, name in enumerate((*OPS, MODEL))}

        def key(result: Result) -> tuple[int, str, int, str]:
            aspect = ASPECTS.index(result.aspect) if result.aspect in ASPECTS else len(ASPECTS)
            return ops.get(result.op, len(ops)), result.op, aspect, result.id

        return cls(manifest, tuple(sorted(results, key=key)))

    def at(self, *path: str) -> object:
        """A value of the manifest, None where there is none."""
        value: object = self.manifest
        for key in path:
            value = _mapping(value).get(key)
        return value

    def text(self, *path: str) -> str:
        """A value of the manifest in words."""
        return _text(self.at(*path)) or _NOT_RECORDED

    @cached_property
    def ops(self) -> list[str]:
        """Rows of the matrix: the contract's ops, the model, then whatever else there is."""
        return list(dict.fromkeys((*OPS, MODEL, *(result.op for result in self.results))))

    @cached_property
    def aspects(self) -> list[str]:
        """Columns of the matrix."""
        return list(dict.fromkeys((*ASPECTS, *(result.aspect for result in self.results))))

    @cached_property
    def tally(self) -> Counter[Status]:
        """Cases by status."""
        return Counter(result.status for result in self.results)

    @cached_property
    def cells(self) -> dict[tuple[str, str], Counter[Status]]:
        """Cases by status for each op and aspect that has any."""
        found: dict[tuple[str, str], Counter[Status]] = {}
        for result in self.results:
            found.setdefault((result.op, result.aspect), Counter())[result.status] += 1
        return found

    def of_aspect(self, aspect: str) -> Counter[Status]:
        """Cases of an aspect by status, over all ops."""
        cells = (tally for (_, other), tally in self.cells.items() if other == aspect)
        return sum(cells, Counter[Status]())

    @cached_property
    def claimed(self) -> list[str]:
        """Levels that the backend claims, with the mandatory one, in the order of the columns."""
        levels = {*map(_text, _items(self.at("claims"))), Level.RUN_TO_RUN.value}
        return sorted(levels, key=[*self.aspects, *sorted(levels)].index)


def _judged(tally: Mapping[Status, int]) -> int:
    return sum(tally.get(status, 0) for status in JUDGED)


def _worst(tally: Counter[Status] | None) -> Status | None:
    return next((status for status in _LOOKS if tally and tally[status]), None)


def _said(tally: Counter[Status], statuses: Iterable[Status] = _ORDER) -> str:
    return _listed([f"{tally[s]:,} {_LOOKS[s].label}" for s in statuses if tally[s]])


# --- header ---


@dataclass(frozen=True)
class _Verdict:
    style: str
    symbol: str
    sentence: str
    reasons: list[str]


def _verdict(run: _Run) -> _Verdict:
    """What is claimed, and whether the run supports it, in one sentence; then why."""
    claim = f"{run.text('backend')} claims {_listed(run.claimed)} {_where(run)}"
    passed = f"{run.tally[Status.PASS]:,} of {_count(_judged(run.tally), 'executed case')} passed."
    broken, void = _said(run.tally, BROKEN), _void(run)
    if broken:
        sentence = f"{claim}; this run does not support it: {broken}."
        if void:
            sentence = f"This run claims nothing, and of its cases {broken}."
        return _Verdict("fail", "✗", sentence, [*void, *_breaks(run)])
    if void:
        return _Verdict("warn", "∅", "This run claims nothing.", [*void, passed])
    unshown = [level for level in run.claimed if level not in _mapping(run.at("shown", "levels"))]
    waived = run.tally[Status.EXPECTED_FAIL]
    exceptions = [*unshown, *([_count(waived, "expected failure")] if waived else [])]
    but = f", except for {_listed(exceptions)}" if exceptions else ""
    sentence = f"{claim}, and this run supports it{but}."
    return _Verdict("pass", "✓", sentence, [passed, *_scope(run, unshown)])


def _where(run: _Run) -> str:
    quick = " on the quick selection" if run.at("quick") else ""
    return f"in the {run.text('profile')} profile{quick}"


def _void(run: _Run) -> list[str]:
    """Why the run claims nothing: what the manifest says, and what it should have said."""
    spelled_out = {f"{run.tally[status]} cases: {status.value}" for status in BROKEN}
    because = [_text(reason) for reason in _items(run.at("shown", "none_because"))]
    said = [_upper(reason) for reason in because if reason not in spelled_out]
    if run.at("shown", "levels") is None:
        said.append("The manifest draws no conclusions.")
    counts = {key: count for key, count in _mapping(run.at("counts")).items() if count}
    if counts != {status.value: count for status, count in run.tally.items()}:
        said.append("The counts of the manifest are not those of the results.")
    if said or because:
        return said
    flags = {
        "no case was executed": not _judged(run.tally),
        "the selection is partial": run.at("partial") is not False,
        "the suite was dirty": run.at("dirty") is not False,
        "the CPU stood in for the backend": bool(_substituted(run)),
    }
    return [f"The manifest draws conclusions although {flag}." for flag, on in flags.items() if on]


def _substituted(run: _Run) -> list[str]:
    ops = _mapping(run.at("plan", "ops"))
    return [
        name
        for name, answer in sorted(ops.items())
        if _mapping(answer).get("source") == "substitute"
    ]


def _breaks(run: _Run) -> list[str]:
    """The broken cases of each aspect, a sentence each."""
    found = []
    for aspect in run.aspects:
        tally = run.of_aspect(aspect)
        if broken := _said(tally, BROKEN):
            ops = [op for op in run.ops if _worst(run.cells.get((op, aspect))) in BROKEN]
            cases = _count(tally.total(), "case")
            found.append(f"{_upper(aspect)[:-1]}: of {cases} {broken} ({', '.join(ops)}).")
    return found


def _scope(run: _Run, unshown: Sequence[str]) -> list[str]:
    """How far a supported claim reaches."""
    levels = _mapping(run.at("shown", "levels"))
    shown = [
        f"{level} ({_count(len(_items(levels[level])), 'op')})"
        for level in run.aspects
        if level in levels
    ]
    said = [f"Every case passed of: {', '.join(shown)}."] if shown else []
    for aspect in run.aspects:
        ops = [op for op in run.ops if run.cells.get((op, aspect), Counter())[Status.EXPECTED_FAIL]]
        if ops:
            said.append(f"Not shown, because of expected failures: {aspect} of {_listed(ops)}.")
    said += [f"Not shown, because no case of it was executed: {level}." for level in unshown]
    if count := run.tally[Status.UNSUPPORTED]:
        said.append(f"{_count(count, 'case')} are of optional ops that the backend does not give.")
    return said


def _header(run: _Run) -> _Html:
    verdict = _verdict(run)
    reasons = _tag("ul", *(_tag("li", reason) for reason in verdict.reasons))
    banner = _tag(
        "div",
        _tag("div", verdict.symbol, class_="sign", aria_hidden="true"),
        _tag("h1", verdict.sentence),
        reasons,
        class_=f"verdict {verdict.style}",
    )
    eyebrow = _tag("p", _tag("b", "glm5-hal"), " conformance report", class_="eyebrow")
    return _join((eyebrow, banner, _facts(run), _share(run), _chips(run)))


def _facts(run: _Run) -> _Html:
    must_pass = _join((run.text("must_pass_list"), " ", _hash(run.text("must_pass_hash"))))
    pairs = [
        ("Backend", run.text("backend")),
        ("Device", run.text("device")),
        ("Profile", run.text("profile")),
        ("Suite version", _suite(run)),
        ("Contract version", run.text("contract_version")),
        ("Plan", _hash(run.text("plan_hash"))),
        ("Must-pass list", must_pass),
        ("Date", run.text("started").replace("T", " ").replace("+00:00", " UTC")),
        ("Duration", _duration(run)),
    ]
    items = (_tag("div", _tag("dt", key), _tag("dd", value)) for key, value in pairs)
    return _tag("dl", *items, class_="facts")


def _suite(run: _Run) -> str:
    commit = run.at("commit")
    return run.text("suite_version") + (f" ({_text(commit)[:10]})" if commit else "")


def _duration(run: _Run) -> str:
    seconds = run.at("seconds")
    return _seconds(seconds) if isinstance(seconds, int | float) else _NOT_RECORDED


def _hash(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{32,}", text):
        return text
    return _tag("code", text[:12], "…", title=text)


def _share(run: _Run) -> _Html:
    parts = (
        _tag("span", class_=_LOOKS[status].style, style=f"flex:{run.tally[status]}")
        for status in _ORDER
        if run.tally[status]
    )
    return _tag("div", *parts, class_="share", aria_hidden="true")


def _chips(run: _Run) -> _Html:
    chips = []
    for status in _ORDER:
        look, number = _LOOKS[status], run.tally[status]
        content = _join((_symbol(status), f" {look.label} ", _tag("b", f"{number:,}")))
        if number:
            spoken = f"{_count(number, 'case')} {look.label}: show"
            chips.append(_to_cases(content, spoken, look.style, status=status.value))
        else:
            chips.append(_tag("span", content, class_="none"))
    return _tag("ul", *(_tag("li", chip) for chip in chips), class_="chips")


# --- failures ---


def _failures(run: _Run) -> _Html:
    failures = [result for result in run.results if result.status in BROKEN]
    if not failures:
        nothing = "No case failed." if _judged(run.tally) else "No case was executed."
        return _join((_heading("failures", "Failures", "0"), _paragraph(nothing)))
    intro = "By requirement, in the order of the contract. The first of each is the one to look at."
    parts = [_heading("failures", "Failures", f"{len(failures):,}"), _paragraph(intro)]
    found = groupby(_by_requirement(failures), key=lambda r: (r.op, r.requirement))
    groups = [(op, requirement, list(cases)) for (op, requirement), cases in found]
    spare = max(0, DETAILED - len(groups))  # the first of each group, then what there is room for
    for place, (op, requirement, cases) in enumerate(groups):
        detailed = cases[: 1 + spare] if place < DETAILED else []
        spare -= max(0, len(detailed) - 1)
        parts.append(_group(op, requirement, cases, detailed, opened=place < OPEN_GROUPS))
    return _join(parts)


def _by_requirement(results: Sequence[Result]) -> list[Result]:
    ops = list(dict.fromkeys(result.op for result in results))
    order = list(REQUIREMENTS)

    def key(result: Result) -> tuple[int, int, str]:
        place = order.index(result.requirement) if result.requirement in order else len(order)
        return ops.index(result.op), place, result.requirement

    return sorted(results, key=key)


def _group(
    op: str, requirement: str, cases: list[Result], detailed: list[Result], *, opened: bool
) -> _Html:
    name = f"{_count(len(cases), 'case')} of {op}"
    count = _to_cases(name, f"Show the {name}", "count", op=op, text=f"^{requirement}/")
    title = _tag("h3", count, _tag("b", requirement), _sentence(requirement))
    parts = [
        _failure(result, opened=opened and place == 0) for place, result in enumerate(detailed)
    ]
    if rest := len(cases) - len(detailed):
        more = f"{_count(rest, 'more case')} in the list of all cases"
        link = _to_cases(more, more, "", op=op, text=f"^{requirement}/")
        parts.append(_tag("div", _tag("p", link), class_="body"))
    return _tag("section", title, *parts, class_="group")


def _sentence(requirement: str) -> str:
    known = REQUIREMENTS.get(requirement)
    return known.text if known else "(not a requirement of the contract of this version)"


def _failure(result: Result, *, opened: bool) -> _Html:
    look, difference = _LOOKS[result.status], difference_of(result)
    # a message that ends in the difference would say it twice
    message = result.message.removesuffix(f": {difference}")
    pairs = [
        ("Found", _cut(message, 4000)),
        ("Worst error", "" if result.worst is None else f"{result.worst:.3g} of its bound"),
        ("Changed", result.change or "nothing: the plain call"),
        *(_where_and_how(difference) if difference else ()),
        ("Hint", result.hint),
    ]
    shown = [part for pair in pairs if pair[1] for part in zip(("dt", "dd"), pair, strict=True)]
    body = [_tag("dl", *(_tag(name, text) for name, text in shown))]
    if difference:
        body.append(_bit_table(difference))
    if result.reproduce:
        body.append(_tag("div", _tag("pre", _tag("code", result.reproduce)), class_="run"))
    name = _tag("span", _symbol(result.status), f" {look.label} ", class_=look.style)
    brief = _tag("span", _share_of(difference) or message[:90], class_="soft brief")
    summary = _tag("summary", name, _tag("code", result.id), " ", brief)
    state = {"open": ""} if opened else {}
    return _tag("details", summary, _tag("div", *body, class_="body"), class_="case", **state)


def _where_and_how(difference: Difference) -> list[tuple[str, str]]:
    index = _tag("code", str(list(difference.index)))
    place = _join((f"output {difference.output} at ", index))
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


def _bit_table(difference: Difference) -> _Html:
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
        rows.append(_tag("tr", _tag("th", key, scope="row"), *(_tag("td", c) for c in cells)))
    table = _tag("table", _tag("tbody", *rows), class_="bits")
    return _tag("div", table, class_="bitbox", tabindex="0")


def _marked(digits: str, changed: int) -> _Html:
    """Bits in groups of four, those in `changed` marked."""
    width = 4 * len(digits)
    parts: list[str] = []
    for place, bit in enumerate(f"{int(digits, 16):0{width}b}"):
        if place and place % 4 == 0:
            parts.append(" ")
        parts.append(_tag("mark", bit) if changed >> (width - 1 - place) & 1 else bit)
    return _join(parts)


# --- matrix ---


def _matrix(run: _Run) -> _Html:
    absent = {
        a for a in run.aspects if run.of_aspect(a).total() == run.of_aspect(a)[Status.NOT_RUN]
    }
    head = _tag("thead", _tag("tr", _tag("th", "op", scope="col"), *_columns(run)))
    body = [_matrix_row(run, op, place, absent) for place, op in enumerate(run.ops)]
    foot = _tag("tfoot", _tag("tr", _tag("th", "all", scope="row"), *_totals(run, absent)))
    table = _tag("table", head, _tag("tbody", *body), foot, class_="matrix")
    intro = "Passed of all cases; a cell looks like its worst case and leads to its cases."
    parts = (_heading("matrix", "Ops and what was checked"), _paragraph(intro), _scroll(table))
    return _join((*parts, _legend(), _absences(run, absent)))


def _columns(run: _Run) -> list[_Html]:
    columns = []
    for aspect in run.aspects:
        standing = "claimed" if aspect in run.claimed else "not claimed"
        standing = "required" if aspect in _MANDATORY else standing
        columns.append(_tag("th", _breakable(aspect), _tag("small", standing), scope="col"))
    return columns


def _breakable(name: str) -> _Html:
    return _join(name.split("-"), _Html("-<wbr>"))


def _matrix_row(run: _Run, op: str, place: int, absent: set[str]) -> _Html:
    cells = [_tag("th", op, scope="row")]
    for aspect in run.aspects:
        if aspect not in absent:
            cells.append(_tag("td", _cell(run.cells.get((op, aspect)), op, aspect)))
        elif place == 0:  # one cell for the whole column
            note = _tag("span", "not run")
            cells.append(_tag("td", note, class_="absent", rowspan=str(len(run.ops))))
    return _tag("tr", *cells)


def _cell(tally: Counter[Status] | None, op: str, aspect: str) -> _Html:
    worst = _worst(tally)
    if tally is None or worst is None:
        return _tag("span", "·", class_="empty", title="no case")
    look = _LOOKS[worst]
    share = f"{tally[Status.PASS]}/{tally.total()}" if _judged(tally) else look.label
    content = _join((_symbol(worst), f" {share}"))
    text = f"{op}, {aspect}: {_said(tally)}"
    return _to_cases(content, text, look.style, op=op, aspect=aspect)


def _totals(run: _Run, absent: set[str]) -> list[_Html]:
    cells = []
    for aspect in run.aspects:
        tally = run.of_aspect(aspect)
        worst = _worst(tally)
        if aspect in absent or worst is None:
            cells.append(_tag("td", _tag("span", "–", class_="empty")))
            continue
        content = _join((_symbol(worst), f" {tally[Status.PASS]:,}/{tally.total():,}"))
        text = f"all cases of {aspect}"
        cells.append(_tag("td", _to_cases(content, text, _LOOKS[worst].style, aspect=aspect)))
    return cells


def _legend() -> _Html:
    entries = [
        _tag("span", _symbol(status), f" {_LOOKS[status].label}", class_="tally")
        for status in _ORDER
    ]
    return _tag("p", *entries, "· no case", class_="soft legend")


def _absences(run: _Run, absent: set[str]) -> _Html:
    """Why columns are empty."""
    notes = []
    for aspect in (name for name in run.aspects if name in absent):
        told = dict.fromkeys(r.message for r in run.results if r.aspect == aspect and r.message)
        planned = run.at("levels_without_cases", aspect)
        reasons = [_text(planned)] if planned and not told else list(told)
        more = f", and {len(reasons) - 2} other reasons" if len(reasons) > 2 else ""
        reason = "; ".join(reasons[:2]) or "the results hold no case of it"
        notes.append(_tag("li", _tag("b", aspect), f" was not run: {reason}{more}"))
    return _tag("ul", *notes, class_="notes") if notes else _Html()


# --- accuracy ---


@dataclass(frozen=True)
class _Errors:
    """Accuracy cases of one op and dtype."""

    dtype: str
    bins: Counter[int]
    worst: float | None
    worst_case: str

    @classmethod
    def of(cls, dtype: str, results: Sequence[Result]) -> "_Errors":
        """Histograms added up, and the worst share of a bound."""
        bins: Counter[int] = Counter()
        for result in results:
            bins.update({int(edge): number for edge, number in result.ulps.items()})
        shares = [(result.worst, result.id) for result in results if result.worst is not None]
        worst = max(shares, default=(None, ""))
        return cls(dtype, bins, *worst)


_DTYPE = re.compile(r"(?<![a-z0-9])(fp32|bf16)(?![a-z0-9])")


def _dtype(result: Result) -> str:
    found = _DTYPE.search(result.id.rsplit("/", 1)[-1])
    return found[1] if found else ""


def _accuracy(run: _Run) -> _Html:
    measured = [r for r in run.results if r.ulps or r.worst is not None]
    intro = (
        "Errors against fp64 in units in the last place (ULP) of the output dtype: elements by "
        "error, heights on a log scale. A bar holds what is above the label before it and up to "
        "its own; ≤½ is correctly rounded. The gauge is the worst error as a share of its bound."
    )
    parts = [_heading("accuracy", "Accuracy"), _paragraph(intro)]
    if not measured:
        return _join((parts[0], _paragraph("No accuracy case was executed.")))
    plots = []
    for op, members in groupby(measured, key=lambda r: r.op):
        by_dtype: dict[str, list[Result]] = {}
        for result in members:
            by_dtype.setdefault(_dtype(result), []).append(result)
        plots.append(
            _plot(op, [_Errors.of(d, by_dtype[d]) for d in sorted(by_dtype, reverse=True)])
        )
    return _join((*parts, _tag("div", *plots, class_="plots")))


def _plot(op: str, series: list[_Errors]) -> _Html:
    edges = _edges(series)
    figures = [_figure(op, errors, edges) for errors in series]
    return _tag("section", _tag("h3", op), *figures, class_="plot")


def _edges(series: list[_Errors]) -> list[int]:
    """½ (as 0) and powers of two up to the largest edge, evenly spaced: gaps are seen."""
    largest = max((edge for errors in series for edge in errors.bins), default=0)
    powers = (largest - 1).bit_length() if largest else -1
    stride = max(1, math.ceil((powers + 1) / MOST_BARS))
    return [0, *sorted(1 << power for power in range(powers, -1, -stride))]


def _rebinned(bins: Mapping[int, int], edges: Sequence[int]) -> Counter[int]:
    """The histogram with fewer bars: what is up to an edge is up to every larger one."""
    found: Counter[int] = Counter()
    for edge, number in bins.items():
        found[edges[bisect_left(edges, edge)]] += number
    return found


def _figure(op: str, errors: _Errors, edges: list[int]) -> _Html:
    over = errors.worst is not None and not errors.worst <= 1
    share = "no bound recorded" if errors.worst is None else f"{errors.worst:.3g} of the bound"
    flag = _join((_symbol(Status.FAIL), " ")) if over else _Html()
    label = _tag("span", flag, "worst ", _tag("b", share), title=errors.worst_case)
    caption = _tag("figcaption", _tag("b", errors.dtype or "all"), label)
    width = 100.0 if errors.worst is None or over else 100 * errors.worst
    gauge = _tag(
        "span",
        _tag("i", style=f"width:{width:.1f}%") if errors.worst is not None else _Html(),
        class_="gauge over" if over else "gauge",
        aria_hidden="true",
    )
    spoken = f"{op} {errors.dtype}: elements by error in ULP"
    bars = _histogram(_rebinned(errors.bins, edges), edges, spoken) if errors.bins else _Html()
    return _tag("figure", caption, gauge, bars)


def _histogram(bins: Mapping[int, int], edges: Sequence[int], spoken: str) -> _Html:
    """Bars of log height on a base line; count above, upper edge below each."""
    wide, base, tall = 364.0, 74.0, 58.0
    step = min(wide / len(edges), 52.0)
    top = math.log10(1 + max(bins.values())) or 1.0
    parts = [_tag("line", x1="0", x2=f"{wide}", y1=f"{base}", y2=f"{base}")]
    for place, edge in enumerate(edges):
        number, left = bins.get(edge, 0), place * step
        height = tall * math.log10(1 + number) / top
        middle = f"{left + step / 2:.1f}"
        if number:
            size = {"width": f"{step - 4:.1f}", "height": f"{height:.1f}", "rx": "1.5"}
            parts.append(_tag("rect", x=f"{left + 2:.1f}", y=f"{base - height:.1f}", **size))
            parts.append(_tag("text", _compact(number), x=middle, y=f"{base - height - 3:.1f}"))
            spoken += f", {_edge(edge)}: {number:,}"
        parts.append(_tag("text", _edge(edge), x=middle, y=f"{base + 12}"))
    box = f"0 0 {wide} {base + 16}"
    return _tag("svg", *parts, viewBox=box, role="img", aria_label=spoken)


_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def _edge(edge: int) -> str:
    if edge >= 1024 and edge & (edge - 1) == 0:
        return f"≤2{str(edge.bit_length() - 1).translate(_RAISED)}"
    return f"≤{edge}" if edge else "≤½"


def _compact(number: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            share = number / size
            return f"{share:.0f}{unit}" if share >= 9.95 else f"{share:.1f}{unit}"
    return str(number)


# --- timings ---


def _timings(run: _Run) -> _Html:
    spent: dict[str, float] = {}
    for result in run.results:
        spent[result.op] = spent.get(result.op, 0.0) + result.seconds
    total = sum(spent.values())
    title = _heading("timings", "Time", f"{_seconds(total)} in cases")
    slowest = sorted(run.results, key=lambda r: (-r.seconds, r.id))[:10]
    if not total:
        return _join((title, _paragraph("No time was spent in cases.")))
    by_op = (_tag("h3", "By op"), _time_table(run, spent, total))
    by_case = (_tag("h3", "Slowest cases"), _slow_table(slowest))
    return _join((title, _tag("div", _tag("div", *by_op), _tag("div", *by_case), class_="cols")))


def _time_table(run: _Run, spent: Mapping[str, float], total: float) -> _Html:
    longest = max(spent.values())
    rows = []
    for op in (name for name in run.ops if name in spent):
        bar = _tag("i", style=f"width:{100 * spent[op] / longest:.1f}%")
        share = _join((_tag("span", bar, class_="gauge"), f"{100 * spent[op] / total:.1f} %"))
        rows.append((_tag("code", op), _seconds(spent[op]), _tag("div", share, class_="bar")))
    return _table(("op", "time", "share"), rows, right=(1,))


def _slow_table(results: Sequence[Result]) -> _Html:
    rows = [(_tag("code", r.id), _seconds(r.seconds), _status(r.status)) for r in results]
    return _table(("case", "time", "status"), rows, right=(1,))


def _status(status: Status) -> _Html:
    look = _LOOKS[status]
    return _tag("span", _symbol(status), f" {look.label}", class_=f"{look.style} nowrap")


# --- requirements ---


def _requirements(run: _Run) -> _Html:
    tallies: dict[str, Counter[Status]] = {name: Counter() for name in REQUIREMENTS}
    for result in run.results:
        tallies.setdefault(result.requirement, Counter())[result.status] += 1
    silent = [name for name, tally in tallies.items() if not _judged(tally)]
    broken = [name for name, tally in tallies.items() if _worst(tally) in BROKEN]
    styles = {
        place: "missing" if name in silent else "broken" if name in broken else ""
        for place, name in enumerate(tallies)
    }
    rows = [_requirement_row(name, tally) for name, tally in tallies.items()]
    names = ("requirement", "op", "what it says", "cases", "outcome")
    title = _heading("requirements", "Requirements", f"{len(tallies)}")
    remark = _paragraph(" ".join((_coverage(len(tallies), silent), _other_contract(run))))
    return _join((title, remark, _table(names, rows, right=(3,), styles=styles)))


def _other_contract(run: _Run) -> str:
    recorded = run.at("contract_version")
    if recorded in (None, CONTRACT_VERSION):
        return ""
    return (
        f"The run is of contract version {_text(recorded)}; the sentences below are those of "
        f"version {CONTRACT_VERSION}."
    )


def _coverage(total: int, silent: Sequence[str]) -> str:
    if not silent:
        return f"All {total} have at least one executed case."
    names = ", ".join(silent) if len(silent) <= 12 else "they are marked below"
    return f"{len(silent)} of {total} have no executed case: {names}."


def _requirement_row(name: str, tally: Counter[Status]) -> tuple[str, ...]:
    outcomes = [
        _tag(
            "span",
            _symbol(s),
            f" {tally[s]:,} {_LOOKS[s].label}",
            class_=f"tally {_LOOKS[s].style}",
        )
        for s in _ORDER
        if tally[s]
    ]
    if not _judged(tally):
        outcomes.insert(0, _tag("b", "no executed case", class_="tally"))
    number: str = f"{tally.total():,}"
    if tally.total():
        number = _to_cases(number, f"Show the cases of {name}", "", text=f"^{name}/")
    op = op_of(name) or (MODEL if name.startswith("MODEL-") else "all")
    words = (_tag("code", name, class_="nowrap"), _tag("code", op, class_="nowrap"))
    return (*words, _sentence(name), number, _join(outcomes, " "))


# --- all cases ---


def _cases(run: _Run) -> _Html:
    title = _heading("cases", "All cases", f"{len(run.results):,}")
    if not run.results:
        return _join((title, _paragraph("There are none.")))
    names = ("status", "op", "aspect", "case", "time", "remark")
    head = _tag("thead", _tag("tr", *(_tag("th", name, scope="col") for name in names)))
    groups = groupby(run.results, key=lambda r: (r.op, r.aspect))
    bodies = [_tag("tbody", *_case_rows(list(members))) for _, members in groups]
    summary = _tag("summary", f"Show all {_count(len(run.results), 'case')}")
    listed = _tag("details", summary, _scroll(_tag("table", head, *bodies)), id="all")
    return _join((title, _filter(run), listed))


def _case_rows(members: list[Result]) -> Iterator[_Html]:
    anchor = {"id": _anchor(members[0].op, members[0].aspect)}
    for result in members:
        yield _tag(
            "tr",
            _tag("td", _status(result.status), data_status=result.status.value),
            _tag("td", result.op),
            _tag("td", result.aspect),
            _tag("td", result.id),
            _tag("td", _seconds(result.seconds)),
            _tag("td", _remark(result)),
            **anchor,
        )
        anchor = {}


def _remark(result: Result) -> str:
    """What was found; for a passed case its digests, shortened."""
    if result.status is Status.PASS and not result.message:
        return ", ".join(f"{name} {digest[:12]}" for name, digest in result.digests.items())
    message = _cut(result.message, 400)
    return f"{message} (changed: {result.change})" if result.change else message


_INPUT = '<input id="f-text" type="search" autocomplete="off">'


def _filter(run: _Run) -> _Html:
    statuses = [(s.value, _LOOKS[s].label) for s in _ORDER if run.tally[s]]
    present = {result.op for result in run.results}
    aspects = {result.aspect for result in run.results}
    fields = (
        _select("f-op", "Op", [(op, op) for op in run.ops if op in present]),
        _select("f-aspect", "Aspect", [(a, a) for a in run.aspects if a in aspects]),
        _select("f-status", "Status", statuses),
        _tag("label", "Text (^ for the start of a case id)", _Html(_INPUT), class_="grow"),
        _tag("button", "Clear", type="button", id="f-reset"),
        _tag("span", id="shown", role="status"),
    )
    return _tag(
        "div", *fields, class_="filter", id="filter", role="search", aria_label="Cases", hidden=""
    )


def _select(ident: str, label: str, options: Iterable[tuple[str, str]]) -> _Html:
    choices = [_tag("option", text, value=value) for value, text in (("", "any"), *options)]
    return _tag("label", label, _tag("select", *choices, id=ident))


# --- environment ---


_RUN = (
    *("suite_version", "commit", "source", "suite_state", "dirty", "profile", "quick", "ops"),
    *("case", "partial", "backend_class", "workers", "threads", "seeds", "plan_hash"),
    "must_pass_hash",
)
"""Keys of the manifest that say what was run."""


def _environment(run: _Run) -> _Html:
    machine = {k: v for k, v in _mapping(run.at("machine")).items() if k != "packages"}
    parts = [
        _heading("environment", "Environment"),
        _notes("Warnings", run.at("warnings")),
        _waivers(run),
    ]
    pairs = [
        _pairs("Ops declared unsupported", run.at("unsupported")),
        _pairs("Run", {key: run.at(key) for key in _RUN if key in run.manifest}),
        _pairs("Versions", run.at("versions")),
        _pairs("Machine", machine),
        _pairs("Environment variables", run.at("environment")),
        _pairs("Files of the package (SHA-256)", run.at("files")),
    ]
    parts += [_tag("div", *pairs, class_="columns"), _plan_table(run)]
    content = json.dumps(run.manifest, indent=2, sort_keys=True, ensure_ascii=False, default=str)
    summary = _tag("summary", "The whole manifest")
    return _join((*parts, _tag("details", summary, _tag("pre", content), class_="plain")))


def _subtitle(title: str) -> _Html:
    return _tag("h3", title, class_="sub")


def _nothing(value: object) -> _Html:
    return _paragraph("Not recorded." if value is None else "None.")


def _notes(title: str, value: object) -> _Html:
    lines = [_tag("li", _text(line)) for line in _items(value)]
    listed = _tag("ul", *lines, class_="notes") if lines else _nothing(value)
    return _join((_subtitle(title), listed))


def _pairs(title: str, value: object) -> _Html:
    rows = [(str(k), _tag("code", _text(v) or "–")) for k, v in sorted(_mapping(value).items())]
    table = _table(("name", "value"), rows) if rows else _nothing(value)
    return _tag("div", _subtitle(title), table, class_="pairs")


def _waivers(run: _Run) -> _Html:
    """Those of the manifest if it has any, then those that the results speak of."""
    parts = [_subtitle("Waivers")]
    records = [_mapping(entry) for entry in _items(run.at("waivers"))]
    if keys := sorted({key for record in records for key in record}, key=_waiver_column):
        rows = [[_text(record.get(key)) for key in keys] for record in records]
        parts.append(_table(keys, rows))
    reasons = Counter(
        (result.op, result.message.partition("; found: ")[0])
        for result in run.results
        if result.status is Status.EXPECTED_FAIL
    )
    used = [(_tag("code", op), reason, str(count)) for (op, reason), count in reasons.items()]
    if used:
        parts.append(
            _table(("op", "why its cases are expected to fail", "cases"), used, right=(2,))
        )
    return _join(parts if len(parts) > 1 else (*parts, _paragraph("None was needed.")))


def _waiver_column(key: str) -> tuple[bool, str]:
    return key != "case", key


def _plan_table(run: _Run) -> _Html:
    rows = []
    answers = _mapping(run.at("plan", "ops"))
    for name in [*(op for op in OPS if op in answers), *sorted(answers.keys() - OPS.keys())]:
        answer = answers[name]
        where = _tag("code", _text(_mapping(answer).get("where")))
        rows.append((_tag("code", name), _text(_mapping(answer).get("source")), where))
    table = _table(("op", "from", "where"), rows) if rows else _nothing(None)
    return _join((_subtitle("What answered each op"), table))


# --- the page ---


@cache
def _template() -> tuple[Template, str]:
    """The page, and the hash of its script for the content security policy."""
    page = files("glm5_hal.conformance").joinpath("templates", "report.html").read_text("utf-8")
    script = page.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(page), f"sha256-{digest}"


_SECTIONS = (
    ("failures", "Failures"),
    ("matrix", "Matrix"),
    ("accuracy", "Accuracy"),
    ("timings", "Time"),
    ("requirements", "Requirements"),
    ("cases", "All cases"),
    ("environment", "Environment"),
)


def render(manifest: Mapping[str, object], results: Sequence[Result]) -> str:
    """The report as one HTML document; equal arguments give equal bytes.

    Args:
        manifest: of the package; the module's text says what is read.
        results: of all cases, in any order.
    """
    run = _Run.of(manifest, results)
    page, script_hash = _template()
    parts = (_failures, _matrix, _accuracy, _timings, _requirements, _cases, _environment)
    nav = (_tag("li", _tag("a", text, href=f"#{name}")) for name, text in _SECTIONS)
    text = page.substitute(
        script_hash=script_hash,
        title=escape(f"{run.text('backend')}: glm5-hal conformance report"),
        header=_header(run),
        nav=_join(nav),
        main=_join(part(run) for part in parts),
        footer="Made from manifest.json and results.jsonl; the files next to it are the evidence.",
    )
    return text.encode(errors="replace").decode()  # a lone surrogate would not go into a file
