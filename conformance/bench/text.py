"""A report for readers: numbers with their units, tables, and result.md."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from glm5_hal.conformance.bench.results import OURS, PHASES, ModelResult, OpResult, Report
from glm5_hal.conformance.bench.spread import Spread

Show = Callable[[float], str]
"""Writes a number with its unit."""

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_SIZES = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
_NONE = "–"


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: what it shows.
        columns: headings.
        rows: cells.
        right: headings of the columns that hold numbers.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[str, ...]


def digits(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def seconds(value: float, number: Show = digits) -> str:
    """The unit that suits a time, and as many digits as `number` gives."""
    size, unit = next((p for p in _TIMES if value >= p[0]), _TIMES[-1])
    return f"{number(value / size)} {unit}"


def size(value: float, number: Show = digits) -> str:
    """Bytes in the binary unit that suits them."""
    size, unit = next((p for p in _SIZES if value >= p[0]), _SIZES[-1])
    return f"{number(value / size)} {unit}"


def tokens(number: int) -> str:
    """A context, 4096 as 4K."""
    return f"{number // 1024}K" if number % 1024 == 0 else str(number)


def spread(found: Spread | None, show: Show) -> str:
    """Median, and lowest to highest where there were several."""
    if found is None:
        return _NONE
    if found.count == 1:
        return show(found.median)
    low, high = show(found.low), show(found.high)
    if " " in low and low.split()[1] == high.split()[1]:
        low = low.split()[0]
    return f"{show(found.median)} ({low}–{high})"


def tables(report: Report) -> list[Table]:
    """Everything that was found."""
    found = []
    if report.ops:
        found.append(_ops(report))
    if report.contexts:
        found += [_times(report), _memory(report)]
    return found


def _ops(report: Report) -> Table:
    columns = ("op", "shape", "ours", "torch", "ours / torch", "floor", "of floor", "memory")
    rows = tuple(_op_row(r, report) for r in report.ops if OURS not in r.not_run)
    return Table("Ops", columns, rows, columns[2:])


def _op_row(result: OpResult, report: Report) -> tuple[str, ...]:
    case, peaks = result.case, report.where.peaks
    name = f"{case.op} against {case.expression}" if case.expression else case.op
    shape = " ".join(f"{symbol}{n}" for symbol, n in case.shape.sizes.items() if symbol != "page")
    work, share, taken = result.work, result.share(peaks), result.bytes(OURS)
    theirs = _median(result.spread(result.peer))
    if result.peer in result.not_run:
        theirs = f"not run: {result.not_run[result.peer]}"
    return (
        name,
        shape,
        _median(result.spread(OURS)),
        theirs,
        spread(result.ratio, digits),
        seconds(work.seconds(peaks)) if work else _NONE,
        _percent(share),
        size(taken) if taken is not None else _NONE,
    )


def _times(report: Report) -> Table:
    peer = _peer(report)
    named = (peer, "times as fast") if peer else ()
    columns = ("context", "phase", "ours", *named, "floor", "of floor")
    rows = tuple(_time_row(result, phase, report) for phase in PHASES for result in report.contexts)
    return Table(
        f"{report.model}: time (decode: a token)", columns, rows, ("context", *columns[2:])
    )


def _time_row(result: ModelResult, phase: str, report: Report) -> tuple[str, ...]:
    peaks = report.where.peaks
    share = result.share(phase, peaks)
    beside: tuple[str, ...] = ()
    if result.peer:
        beside = (_side(result, result.peer, phase), spread(result.gain(phase), digits))
    return (
        tokens(result.context),
        phase,
        _side(result, OURS, phase),
        *beside,
        seconds(result.floors[phase].seconds(peaks)),
        _percent(share),
    )


def _median(found: Spread | None) -> str:
    """Without the spread, which the ratio beside it has."""
    return seconds(found.median) if found else _NONE


def _percent(share: float | None) -> str:
    if share is None:
        return _NONE
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"


def _side(result: ModelResult, side: str, phase: str) -> str:
    if side in result.not_run:
        return f"not run: {result.not_run[side]}"
    return spread(result.spread(side, phase), seconds)


def _memory(report: Report) -> Table:
    peer = _peer(report)
    columns = ("context", "where", "ours", *((peer, "ours / its") if peer else ()))
    rows = []
    for result in report.contexts:
        ours, its = result.bytes(OURS), result.bytes(peer) if peer else {}
        for place, found in ours.items():
            other = its.get(place)
            beside = (
                spread(other, size) if other else _NONE,
                digits(found.median / other.median) if other else _NONE,
            )
            row = (tokens(result.context), place, spread(found, size), *(beside if peer else ()))
            rows.append(row)
    title = f"{report.model}: peak memory with weights, above the libraries'"
    return Table(title, columns, tuple(rows), ("context", *columns[2:]))


def _peer(report: Report) -> str:
    return report.contexts[0].peer


def not_run(report: Report) -> list[str]:
    """Ops that our backend was not asked or could not, each reason once."""
    reasons: dict[str, list[str]] = {}
    for result in report.ops:
        if OURS in result.not_run:
            ops = reasons.setdefault(result.not_run[OURS], [])
            if result.case.op not in ops:
                ops.append(result.case.op)
    return [f"not run: {', '.join(ops)}: {reason}" for reason, ops in reasons.items()]


def facts(report: Report) -> dict[str, str]:
    """Where and how it was measured."""
    where, settings = report.where, report.settings
    machine, plan = where.machine, where.plan
    flops, bandwidth = where.peaks.flops / 1e12, where.peaks.bandwidth / 1e9
    mode = f", mode {plan['mode']}" if plan["mode"] else ""
    torch = f"torch {machine.packages['torch']}"
    return {
        "processor": f"{machine.cpu}, {machine.cores} cores, {' '.join(where.instruction_sets)}",
        "device": machine.device_name,
        "threads": str(where.threads),
        "packages": f"{torch}, {report.peer}" if report.peer else torch,
        "peaks": f"{digits(flops)} TFLOP/s in a {settings['dtype']} product, "
        f"{digits(bandwidth)} GB/s in a copy",
        "plan": f"{plan['backend']}:{plan['index']}, {plan['numerics']}{mode}, {plan['hash']}",
        "rounds": f"{settings['repeats']}, sides in turns, a process each",
        "load before": "unknown" if where.load is None else f"{where.load:.1f}",
        "started": report.started,
    }


def markdown(report: Report, pictures: Sequence[tuple[str, str]]) -> str:
    """result.md: facts, tables, and the pictures (file, caption) that lie beside it."""
    parts = ["# Benchmark", ""]
    if report.where.busy:
        parts += [f"> {report.where.busy}", ""]
    parts += [f"- {name}: {value}" for name, value in facts(report).items()]
    for table in tables(report):
        parts += ["", f"## {table.title}", "", *_lines(table)]
    parts += ["", *not_run(report)] if not_run(report) else []
    for file, caption in pictures:
        parts += ["", f"![{caption}]({file})"]
    return "\n".join([*parts, "", NOTES, ""])


NOTES = """Median of the rounds (lowest to highest). A floor is the time of the least work at the
peaks of this run; caches may hide bytes, so a share can pass 100%. Compare within this run only."""


def _lines(table: Table) -> list[str]:
    rule = tuple("---:" if column in table.right else "---" for column in table.columns)
    return [f"| {' | '.join(row)} |" for row in (table.columns, rule, *table.rows)]
