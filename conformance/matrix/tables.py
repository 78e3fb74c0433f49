"""The matrix as tables, for a terminal and for Markdown alike."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from glm5_hal.conformance.matrix.evidence import STATIC, Cell, Evidence, State
from glm5_hal.conformance.matrix.matrix import PROFILES, Matrix
from glm5_hal.levels import Level

NONE = "no evidence"
LETTERS = {
    "function": "F",
    "accuracy": "A",
    "guard": "G",
    Level.RUN_TO_RUN.value: "R",
    Level.THREAD_INVARIANT.value: "T",
    Level.BATCH_INVARIANT.value: "B",
    Level.SCHEDULE_INVARIANT.value: "S",
    Level.RANK_INVARIANT.value: "K",
    Level.TRAIN_ROLLOUT.value: "L",
    Level.DEVICE_TO_DEVICE.value: "D",
    Level.CROSS_BACKEND.value: "X",
}
"""One for each aspect, at its own place in a cell."""
SYMBOLS = {
    State.BROKEN: "✗",
    State.WAIVED: "≈",
    State.DECLARED: "○",
    State.OUTDATED: "?",
}
NO_EVIDENCE, NO_CASE = "·", "–"


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: what it shows.
        note: what its cells are, in a sentence.
        columns: heads.
        rows: cells; the first `heads` rows belong to the head.
        heads: number of these.
    """

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    heads: int = 0


def tables(matrix: Matrix) -> list[Table]:
    """Everything, the overview first."""
    found = [_overview(matrix)]
    for profile in PROFILES:
        for simulated in (False, True):
            if runs := matrix.runs(profile, simulated):
                found.append(_ops(matrix, profile, runs, simulated))
    found += [_static(matrix, p, e) for p in PROFILES if (e := matrix.static(p))]
    return [*found, _files(matrix)]


def legend(matrix: Matrix) -> str:
    """What the letters and signs of a cell mean."""
    present = [a for a in LETTERS if any(a in matrix.aspects(profile) for profile in PROFILES)]
    letters = ", ".join(f"{LETTERS[aspect]} {aspect}" for aspect in present)
    signs = ", ".join(f"{sign} {state.value}" for state, sign in SYMBOLS.items())
    return (
        f"A letter: every case that was run has passed: {letters}. "
        f"{signs}; {NO_EVIDENCE} {NONE}; {NO_CASE} the suite has no such case."
    )


def without(matrix: Matrix) -> str:
    """The backends of which nothing was run, in a line."""
    profiles: dict[str, list[str]] = {}
    for name, profile in matrix.without:
        profiles.setdefault(name, []).append(profile)
    listed = [f"{name} ({', '.join(held)})" for name, held in profiles.items()]
    return f"{NONE} of a run: {', '.join(listed)}" if listed else "every backend has been run"


def _overview(matrix: Matrix) -> Table:
    levels = [
        level.value
        for level in Level
        if any(level.value in matrix.aspects(profile) for profile in PROFILES)
    ]
    rows = []
    for profile in PROFILES:
        for simulated in (False, True):
            for e in matrix.runs(profile, simulated):
                counts = (_share(matrix, e, level) for level in levels)
                rows.append((e.backend, profile, e.kind.short, e.scope, *counts))
    return Table(
        "Levels",
        "Ops of which every case of the level that was run has passed, of those the suite judges; "
        "in brackets where only a part of the cases was run, which claims nothing.",
        (
            "backend",
            "profile",
            "how",
            "cases",
            *(level.partition("-")[0] for level in levels),
        ),
        tuple(rows),
    )


def _share(matrix: Matrix, evidence: Evidence, aspect: str) -> str:
    """How many ops hold; what is outdated or broken does not."""
    profile = evidence.profile
    ops = [op for op in matrix.ops if (profile, op, aspect) in matrix.cases]
    cells = [evidence.cells[op, aspect] for op in ops if (op, aspect) in evidence.cells]
    if not ops:
        return NO_CASE
    if not cells:
        return NO_EVIDENCE
    passed = sum(cell.state is State.PASSED for cell in cells)
    share = f"{passed}/{len(ops)}"
    return f"({share})" if evidence.scope == "part" else share


def _ops(matrix: Matrix, profile: str, runs: Sequence[Evidence], simulated: bool) -> Table:
    title = f"{profile} profile" + (", simulated" if simulated else "")
    about = (
        "Simulated devices with a vendor's habits: nothing of this is about a chip."
        if simulated
        else "Cases that were run."
    )
    head = [
        ("", *(e.kind.short for e in runs)),
        ("", *(e.scope for e in runs)),
        ("", *(e.date for e in runs)),
    ]
    body = [(op, *(_letters(matrix, e, op) for e in runs)) for op in matrix.ops_of(profile)]
    return Table(title, about, ("op", *(e.backend for e in runs)), (*head, *body), len(head))


def _letters(matrix: Matrix, evidence: Evidence, op: str) -> str:
    if not any(there == op for there, _ in evidence.cells):
        return NONE
    return "".join(
        _letter(evidence.cells.get((op, aspect)), aspect)
        if (evidence.profile, op, aspect) in matrix.cases
        else NO_CASE
        for aspect in matrix.aspects(evidence.profile)
    )


def _letter(cell: Cell | None, aspect: str) -> str:
    if cell is None:
        return NO_EVIDENCE
    return SYMBOLS.get(cell.state, LETTERS[aspect])


def _static(matrix: Matrix, profile: str, found: Sequence[Evidence]) -> Table:
    head = [
        ("", *(e.scope for e in found)),
        ("", *(e.kind.value for e in found)),
        ("", *(e.date for e in found)),
    ]
    body = [
        (op, *(_kernels(e, op) for e in found))
        for op in matrix.ops
        if any((op, STATIC) in e.cells for e in found)
    ]
    return Table(
        f"{profile} profile, static",
        "Code was made and read, nothing was run: kernels, or calls, without a finding of all.",
        ("op", *(e.backend or "portable" for e in found)),
        (*head, *body),
        len(head),
    )


def _kernels(evidence: Evidence, op: str) -> str:
    cell = evidence.cells.get((op, STATIC))
    if cell is None:
        return NO_EVIDENCE
    return f"{cell.passed}/{cell.judged}" + ("?" if cell.state is State.OUTDATED else "")


def _files(matrix: Matrix) -> Table:
    rows = tuple(
        (
            *(e.backend or "portable", e.profile, e.kind.value, e.scope, e.date),
            *(e.commit[:8] or "wheel", e.id[:12]),
        )
        for e in matrix.evidence
    )
    columns = ("backend", "profile", "evidence", "cases or target", "date", "commit", "digest")
    return Table("Evidence", "What every cell above comes from.", columns, rows)


def remarks(matrix: Matrix) -> Iterator[str]:
    """What must be known of single files."""
    for e in matrix.evidence:
        for text in e.remarks:
            yield f"{e.id[:12]} {e.backend or 'portable'}, {e.profile}, {e.scope}: {text}"


def markdown(matrix: Matrix) -> str:
    """The whole matrix as Markdown."""
    parts = [legend(matrix), without(matrix)[0].upper() + without(matrix)[1:] + "."]
    for table in tables(matrix):
        heads = zip(table.columns, *table.rows[: table.heads], strict=True)
        columns = ["<br>".join(filter(None, head)) for head in heads]
        lines = [f"## {table.title[0].upper()}{table.title[1:]}", "", table.note, ""]
        lines.append(_line(columns))
        lines.append(_line(["---"] * len(columns)))
        lines += [_line(row) for row in table.rows[table.heads :]]
        parts.append("\n".join(lines))
    if said := [f"- {text}" for text in remarks(matrix)]:
        parts.append("\n".join(said))
    return "\n\n".join(parts)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
