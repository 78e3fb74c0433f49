"""What ran where: warnings, waivers, versions, machine, plan, and the whole manifest."""

import json
from collections import Counter

from glm5_hal.conformance.case import Status
from glm5_hal.conformance.report.markup import Html, data_table, heading, join, paragraph, tag
from glm5_hal.conformance.report.reading import Run, items_of, mapping_of
from glm5_hal.conformance.report.words import in_words
from glm5_hal.contract import OPS

_RUN = (
    *("suite_version", "commit", "source", "suite_state", "dirty", "profile", "quick", "ops"),
    *("case", "partial", "backend_class", "workers", "threads", "seeds", "plan_hash"),
    "must_pass_hash",
)
"""Keys of the manifest that say what was run."""


def section(run: Run) -> Html:
    """What the manifest says of the run's surroundings, in the end all of it."""
    machine = {k: v for k, v in mapping_of(run.at("machine")).items() if k != "packages"}
    parts = [
        heading("environment", "Environment"),
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
    parts += [tag("div", *pairs, class_="columns"), _plan_table(run)]
    content = json.dumps(run.manifest, indent=2, sort_keys=True, ensure_ascii=False, default=str)
    summary = tag("summary", "The whole manifest")
    return join((*parts, tag("details", summary, tag("pre", content), class_="plain")))


def _subtitle(title: str) -> Html:
    return tag("h3", title, class_="sub")


def _nothing(value: object) -> Html:
    return paragraph("Not recorded." if value is None else "None.")


def _notes(title: str, value: object) -> Html:
    lines = [tag("li", in_words(line)) for line in items_of(value)]
    listed = tag("ul", *lines, class_="notes") if lines else _nothing(value)
    return join((_subtitle(title), listed))


def _pairs(title: str, value: object) -> Html:
    rows = [(str(k), tag("code", in_words(v) or "–")) for k, v in sorted(mapping_of(value).items())]
    table = data_table(("name", "value"), rows) if rows else _nothing(value)
    return tag("div", _subtitle(title), table, class_="pairs")


def _waivers(run: Run) -> Html:
    """Those of the manifest if it has any, then those that the results speak of."""
    parts = [_subtitle("Waivers")]
    records = [mapping_of(entry) for entry in items_of(run.at("waivers"))]
    if keys := sorted({key for record in records for key in record}, key=_waiver_column):
        rows = [[in_words(record.get(key)) for key in keys] for record in records]
        parts.append(data_table(keys, rows))
    reasons = Counter(
        (result.op, result.message.partition("; found: ")[0])
        for result in run.results
        if result.status is Status.EXPECTED_FAIL
    )
    used = [(tag("code", op), reason, str(count)) for (op, reason), count in reasons.items()]
    if used:
        parts.append(
            data_table(("op", "why its cases are expected to fail", "cases"), used, right=(2,))
        )
    return join(parts if len(parts) > 1 else (*parts, paragraph("None was needed.")))


def _waiver_column(key: str) -> tuple[bool, str]:
    return key != "case", key


def _plan_table(run: Run) -> Html:
    rows = []
    answers = mapping_of(run.at("plan", "ops"))
    for name in [*(op for op in OPS if op in answers), *sorted(answers.keys() - OPS.keys())]:
        answer = answers[name]
        where = tag("code", in_words(mapping_of(answer).get("where")))
        rows.append((tag("code", name), in_words(mapping_of(answer).get("source")), where))
    table = data_table(("op", "from", "where"), rows) if rows else _nothing(None)
    return join((_subtitle("What answered each op"), table))
