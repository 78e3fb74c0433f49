"""What is claimed, and whether the run supports it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from glm5_hal.conformance.case import Status
from glm5_hal.conformance.report.reading import Run, items_of, mapping_of
from glm5_hal.conformance.report.statuses import judged, tally_in_words, worst_of
from glm5_hal.conformance.report.words import counted, in_words, listed
from glm5_hal.conformance.verdict import BROKEN


@dataclass(frozen=True)
class Verdict:
    """A sentence, the reasons for it, and its look."""

    style: str
    symbol: str
    sentence: str
    reasons: list[str]


def verdict_of(run: Run) -> Verdict:
    """What is claimed, and whether the run supports it, in one sentence; then why."""
    claim = f"{run.text('backend')} claims {listed(run.claimed)} {_where(run)}"
    passed = f"{run.tally[Status.PASS]:,} of {counted(judged(run.tally), 'executed case')} passed."
    broken, void = tally_in_words(run.tally, BROKEN), _void(run)
    if broken:
        sentence = f"{claim}; this run does not support it: {broken}."
        if void:
            sentence = f"This run claims nothing, and of its cases {broken}."
        return Verdict("fail", "✗", sentence, [*void, *_breaks(run)])
    if void:
        return Verdict("warn", "∅", "This run claims nothing.", [*void, passed])
    unshown = [level for level in run.claimed if level not in mapping_of(run.at("shown", "levels"))]
    waived = run.tally[Status.EXPECTED_FAIL]
    exceptions = [*unshown, *([counted(waived, "expected failure")] if waived else [])]
    but = f", except for {listed(exceptions)}" if exceptions else ""
    sentence = f"{claim}, and this run supports it{but}."
    return Verdict("pass", "✓", sentence, [passed, *_scope(run, unshown)])


def _where(run: Run) -> str:
    simulated = "on a simulated device, " if run.simulated else ""
    quick = " on the quick selection" if run.at("quick") else ""
    return f"{simulated}in the {run.text('profile')} profile{quick}"


def _void(run: Run) -> list[str]:
    """Why the run claims nothing: what the manifest says, and what it should have said."""
    spelled_out = {f"{run.tally[status]} cases: {status.value}" for status in BROKEN}
    because = [in_words(reason) for reason in items_of(run.at("shown", "none_because"))]
    said = [_upper(reason) for reason in because if reason not in spelled_out]
    if run.at("shown", "levels") is None:
        said.append("The manifest draws no conclusions.")
    counts = {key: count for key, count in mapping_of(run.at("counts")).items() if count}
    if counts != {status.value: count for status, count in run.tally.items()}:
        said.append("The counts of the manifest are not those of the results.")
    if said or because:
        return said
    flags = {
        "no case was executed": not judged(run.tally),
        "the selection is partial": run.at("partial") is not False,
        "the suite was dirty": run.at("dirty") is not False,
        "the CPU stood in for the backend": bool(_substituted(run)),
    }
    return [f"The manifest draws conclusions although {flag}." for flag, on in flags.items() if on]


def _upper(sentence: str) -> str:
    return f"{sentence[:1].upper()}{sentence[1:].rstrip('.')}."


def _substituted(run: Run) -> list[str]:
    ops = mapping_of(run.at("plan", "ops"))
    return [
        name
        for name, answer in sorted(ops.items())
        if mapping_of(answer).get("source") == "substitute"
    ]


def _breaks(run: Run) -> list[str]:
    """The broken cases of each aspect, a sentence each."""
    found = []
    for aspect in run.aspects:
        tally = run.of_aspect(aspect)
        if broken := tally_in_words(tally, BROKEN):
            ops = [op for op in run.ops if worst_of(run.cells.get((op, aspect))) in BROKEN]
            cases = counted(tally.total(), "case")
            found.append(f"{_upper(aspect)[:-1]}: of {cases} {broken} ({', '.join(ops)}).")
    return found


def _scope(run: Run, unshown: Sequence[str]) -> list[str]:
    """How far a supported claim reaches."""
    levels = mapping_of(run.at("shown", "levels"))
    shown = [
        f"{level} ({counted(len(items_of(levels[level])), 'op')})"
        for level in run.aspects
        if level in levels
    ]
    said = [f"Every case passed of: {', '.join(shown)}."] if shown else []
    for aspect in run.aspects:
        ops = [op for op in run.ops if run.cells.get((op, aspect), Counter())[Status.EXPECTED_FAIL]]
        if ops:
            said.append(f"Not shown, because of expected failures: {aspect} of {listed(ops)}.")
    said += [f"Not shown, because no case of it was executed: {level}." for level in unshown]
    if count := run.tally[Status.UNSUPPORTED]:
        said.append(f"{counted(count, 'case')} are of optional ops that the backend does not give.")
    return said
