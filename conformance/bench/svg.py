"""Small line charts with logarithmic axes, as SVG."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 340
"""Of a panel."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 108, 40, 46
_HEAD, _FOOT = 34, 22
_LETTER = 6
"""Width of a letter of the note, about."""
_LINE = 14
"""Least distance of two labels."""
_MARK = 3.5

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #333 }
.title { font-size: 14px; font-weight: 600 }
.panel { font-weight: 600 }
.name { paint-order: stroke; stroke: #fff; stroke-width: 4px }
.note { fill: #666; font-size: 11px }
.grid { stroke: #e3e3e3 }
.axis { stroke: #888 }
"""


@dataclass(frozen=True)
class Point:
    """One value and how far it spread."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: shown at its end.
        points: in order of x.
        color: of CSS.
        dashed: a bound rather than a measurement: no marks.
    """

    name: str
    points: Sequence[Point]
    color: str
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: above it.
        x_title: below it.
        series: lines; all values are positive.
        show_x, show_y: how ticks are written.
        base: steps of the vertical axis are its powers: 10, or 2 for bytes.
    """

    title: str
    x_title: str
    series: Sequence[Series]
    show_x: Callable[[float], str]
    show_y: Callable[[float], str]
    base: int = 10


@dataclass(frozen=True)
class _Scale:
    """A logarithmic axis from `low` to `high` on pixels from `start` to `stop`."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.stop - self.start)


def chart(title: str, panels: Sequence[Panel], note: str = "") -> str:
    """Panels side by side under a title."""
    width = max(WIDTH * len(panels), 32 + _LETTER * max(len(note), len(title)))
    height = HEIGHT + _HEAD + _FOOT
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text class="title" x="16" y="24">{escape(title)}</text>',
    ]
    for place, panel in enumerate(panels):
        body.append(f'<g transform="translate({place * WIDTH} {_HEAD})">')
        body += _panel(panel)
        body.append("</g>")
    body.append(f'<text class="note" x="16" y="{height - 10}">{escape(note)}</text>')
    return "\n".join([*body, "</svg>", ""])


def _panel(panel: Panel) -> list[str]:
    points = [point for series in panel.series for point in series.points]
    xs = sorted({point.x for point in points})
    x = _Scale(*_around(xs[0], xs[-1], 2**0.25), _LEFT, WIDTH - _RIGHT)
    low, high = _around(min(p.low for p in points), max(p.high for p in points), 1.25)
    y = _Scale(low, high, HEIGHT - _BOTTOM, _TOP)
    parts = [f'<text class="panel" x="{_LEFT}" y="{_TOP - 16}">{escape(panel.title)}</text>']
    for tick in _ticks(low, high, panel.base):
        at = y(tick)
        parts.append(_line(_LEFT, at, WIDTH - _RIGHT, at, "grid"))
        parts.append(_text(_LEFT - 8, at + 4, panel.show_y(tick), "end"))
    for value in xs:
        parts.append(_line(x(value), HEIGHT - _BOTTOM, x(value), HEIGHT - _BOTTOM + 4, "axis"))
        parts.append(_text(x(value), HEIGHT - _BOTTOM + 18, panel.show_x(value), "middle"))
    parts.append(_line(_LEFT, HEIGHT - _BOTTOM, WIDTH - _RIGHT, HEIGHT - _BOTTOM, "axis"))
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(_text(middle, HEIGHT - _BOTTOM + 36, panel.x_title, "middle"))
    for series in panel.series:
        parts += _drawn(series, x, y)
    return [*parts, *_labels(panel.series, x, y)]


def _drawn(series: Series, x: _Scale, y: _Scale) -> list[str]:
    places = [(x(point.x), y(point.y)) for point in series.points]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    dash = ' stroke-dasharray="5 4"' if series.dashed else ""
    stroke = f'fill="none" stroke="{series.color}" stroke-width="2"'
    parts = [f'<polyline points="{path}" {stroke}{dash}/>']
    if series.dashed and len(places) > 1:
        return parts
    for point, (a, b) in zip(series.points, places, strict=True):
        if point.high > point.low:
            bar = f'x1="{a:.1f}" y1="{y(point.low):.1f}" x2="{a:.1f}" y2="{y(point.high):.1f}"'
            parts.append(f'<line {bar} stroke="{series.color}"/>')
        parts.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{_MARK}" fill="{series.color}"/>')
    return parts


def _labels(series: Sequence[Series], x: _Scale, y: _Scale) -> list[str]:
    """Names at the ends of the lines, moved apart where they would overlap."""
    ends = sorted(
        ((y(one.points[-1].y), x(one.points[-1].x), one) for one in series),
        key=lambda end: end[0],
    )
    parts, last = [], -math.inf
    for at, right, one in ends:
        last = max(at, last + _LINE)
        label = (
            f'<text class="name" x="{right + 9:.1f}" y="{last + 4:.1f}" style="fill:{one.color}">'
        )
        parts.append(f"{label}{escape(one.name)}</text>")
    return parts


def _around(low: float, high: float, factor: float) -> tuple[float, float]:
    """The range with some room on both sides; never empty."""
    return low / factor, high * factor


def _ticks(low: float, high: float, base: int) -> list[float]:
    """Powers of the base within a range; where these are few, numbers between them as well."""
    first, last = math.floor(math.log(low, base)), math.ceil(math.log(high, base))
    powers = [float(base) ** power for power in range(first, last + 1)]
    found = [tick for tick in powers if low <= tick <= high]
    step = -(-len(found) // _MOST_TICKS)
    if base == 10 and len(found) < _FEWEST_TICKS:
        found = [p * m for p in powers for m in (1, 2, 5) if low <= p * m <= high]
    return found[:: max(1, step)]


_FEWEST_TICKS, _MOST_TICKS = 3, 8


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
