"""Errors against fp64: a histogram and the worst share of a bound, by op and dtype."""

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from glm5_hal.conformance.case import Result, Status
from glm5_hal.conformance.report.markup import Html, heading, join, paragraph, tag
from glm5_hal.conformance.report.reading import Run
from glm5_hal.conformance.report.statuses import symbol

MOST_BARS = 12
"""Of a histogram, besides the one of correctly rounded elements."""


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


def section(run: Run) -> Html:
    """A plot an op that has accuracy cases."""
    measured = [r for r in run.results if r.ulps or r.worst is not None]
    intro = (
        "Errors against fp64 in units in the last place (ULP) of the output dtype: elements by "
        "error, heights on a log scale. A bar holds what is above the label before it and up to "
        "its own; ≤½ is correctly rounded. The gauge is the worst error as a share of its bound."
    )
    parts = [heading("accuracy", "Accuracy"), paragraph(intro)]
    if not measured:
        return join((parts[0], paragraph("No accuracy case was executed.")))
    plots = []
    for op, members in groupby(measured, key=lambda r: r.op):
        by_dtype: dict[str, list[Result]] = {}
        for result in members:
            by_dtype.setdefault(_dtype(result), []).append(result)
        plots.append(
            _plot(op, [_Errors.of(d, by_dtype[d]) for d in sorted(by_dtype, reverse=True)])
        )
    return join((*parts, tag("div", *plots, class_="plots")))


def _plot(op: str, series: list[_Errors]) -> Html:
    edges = _edges(series)
    figures = [_figure(op, errors, edges) for errors in series]
    return tag("section", tag("h3", op), *figures, class_="plot")


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


def _figure(op: str, errors: _Errors, edges: list[int]) -> Html:
    over = errors.worst is not None and not errors.worst <= 1
    share = "no bound recorded" if errors.worst is None else f"{errors.worst:.3g} of the bound"
    flag = join((symbol(Status.FAIL), " ")) if over else Html()
    label = tag("span", flag, "worst ", tag("b", share), title=errors.worst_case)
    caption = tag("figcaption", tag("b", errors.dtype or "all"), label)
    width = 100.0 if errors.worst is None or over else 100 * errors.worst
    gauge = tag(
        "span",
        tag("i", style=f"width:{width:.1f}%") if errors.worst is not None else Html(),
        class_="gauge over" if over else "gauge",
        aria_hidden="true",
    )
    spoken = f"{op} {errors.dtype}: elements by error in ULP"
    bars = _histogram(_rebinned(errors.bins, edges), edges, spoken) if errors.bins else Html()
    return tag("figure", caption, gauge, bars)


def _histogram(bins: Mapping[int, int], edges: Sequence[int], spoken: str) -> Html:
    """Bars of log height on a base line; count above, upper edge below each."""
    wide, base, tall = 364.0, 74.0, 58.0
    step = min(wide / len(edges), 52.0)
    top = math.log10(1 + max(bins.values())) or 1.0
    parts = [tag("line", x1="0", x2=f"{wide}", y1=f"{base}", y2=f"{base}")]
    for place, edge in enumerate(edges):
        number, left = bins.get(edge, 0), place * step
        height = tall * math.log10(1 + number) / top
        middle = f"{left + step / 2:.1f}"
        if number:
            size = {"width": f"{step - 4:.1f}", "height": f"{height:.1f}", "rx": "1.5"}
            parts.append(tag("rect", x=f"{left + 2:.1f}", y=f"{base - height:.1f}", **size))
            parts.append(tag("text", _compact(number), x=middle, y=f"{base - height - 3:.1f}"))
            spoken += f", {_edge(edge)}: {number:,}"
        parts.append(tag("text", _edge(edge), x=middle, y=f"{base + 12}"))
    box = f"0 0 {wide} {base + 16}"
    return tag("svg", *parts, viewBox=box, role="img", aria_label=spoken)


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
