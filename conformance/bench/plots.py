"""The pictures of a report: time and memory against context."""

from collections.abc import Callable, Mapping

from glm5_hal.conformance.bench import text
from glm5_hal.conformance.bench.results import OURS, PHASES, Report
from glm5_hal.conformance.bench.spread import Spread
from glm5_hal.conformance.bench.svg import Panel, Point, Series, chart

_COLORS = {OURS: "#0072b2", "floor": "#777777"}
_PEER = "#d55e00"
_TITLES = {"prefill": "prefill", "decode": "decode, a token"}


def time(report: Report) -> str:
    """Time against context: ours, the peer, the floor; prefill and decode side by side."""
    panels = []
    for phase in PHASES:
        lines: dict[str, dict[int, Spread]] = {}
        for result in report.contexts:
            for side in (OURS, result.peer):
                if found := result.spread(side, phase):
                    lines.setdefault(side, {})[result.context] = found
            floor = result.floors[phase].seconds(report.where.peaks)
            lines.setdefault("floor", {})[result.context] = Spread.of([floor])
        panels.append(_panel(_TITLES[phase], lines, text.seconds))
    return chart(f"{report.model}: time against context", panels, _note(report))


def memory(report: Report) -> str:
    """Peak memory against context."""
    panels = []
    for place in ("host", "device"):
        lines: dict[str, dict[int, Spread]] = {}
        for result in report.contexts:
            for side in (OURS, result.peer):
                if found := result.bytes(side).get(place):
                    lines.setdefault(side, {})[result.context] = found
        if lines:
            panels.append(_panel(f"peak memory, {place}", lines, text.size, base=2))
    return chart(f"{report.model}: memory against context", panels, _note(report))


def has_memory(report: Report) -> bool:
    """Whether anybody counted."""
    return any(result.bytes(side) for result in report.contexts for side in result.runs)


def has_time(report: Report) -> bool:
    """Whether there is anything to plot."""
    return bool(report.contexts)


def _panel(
    title: str,
    lines: Mapping[str, Mapping[int, Spread]],
    show: Callable[[float, text.Show], str],
    base: int = 10,
) -> Panel:
    series = [
        Series(
            name,
            [Point(x, s.median, s.low, s.high) for x, s in sorted(points.items())],
            _COLORS.get(name, _PEER),
            dashed=name == "floor",
        )
        for name, points in lines.items()
    ]
    return Panel(
        title,
        "context, tokens",
        series,
        show_x=lambda x: text.tokens(int(x)),
        show_y=lambda y: show(y, "{:g}".format),
        base=base,
    )


def _note(report: Report) -> str:
    where = report.where
    plan = where.plan
    note = (
        f"{where.machine.device_name}, threads: {where.threads}, {plan['backend']} "
        f"{plan['numerics']}, {report.settings['dtype']}; {report.started[:10]}"
    )
    return f"{note}; the machine was busy" if where.busy else note
