"""What becomes of a result: tables, JSON, pictures, and the regression check."""

import itertools
import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import pytest
from bench_names import SWIGLU, TOPK, made_report, op_result

from glm5_hal.conformance.bench import plots, svg, text
from glm5_hal.conformance.bench.baseline import TOLERANCE, Baseline, check
from glm5_hal.conformance.bench.cases import OpCase
from glm5_hal.conformance.bench.results import SCHEMA, OpResult
from glm5_hal.conformance.bench.svg import Panel, Point, Series, chart
from glm5_hal.conformance.errors import AskedError

SVG = "{http://www.w3.org/2000/svg}"


def test_the_document_holds_raw_and_derived() -> None:
    document = json.loads(json.dumps(made_report().to_dict()))
    assert (document["kind"], document["schema"]) == ("glm5-hal bench", SCHEMA)
    [op] = document["ops"]
    assert op["samples"]["ours"][0]["seconds"] == [0.5]
    assert op["seconds"]["ours"]["median"] == 0.625
    assert (op["ratio"]["low"], op["ratio"]["high"], op["ratio"]["median"]) == (0.5, 0.5, 0.5)
    assert op["floor_seconds"] == 1e-8  # 1,000 bytes at 1e11 a second
    first, _, last = document["contexts"]
    assert first["phases"]["prefill"]["ratio"]["median"] == 0.125
    assert first["phases"]["decode"]["ratio"]["median"] == 0.0625
    assert first["memory_bytes"]["ours"]["host"]["median"] == 200 << 20
    assert last["phases"]["prefill"]["ratio"] is None
    assert last["not_run"] == {"transformers": "needs about 69 GiB, 20 GiB are free"}
    assert document["plan"]["hash"] == "0123abcd"
    assert document["machine"]["busy"] is None


def test_tables_for_readers() -> None:
    ops, times, memory = text.tables(made_report({SWIGLU: 0.5, TOPK: 2.0}))
    assert [row[0] for row in ops.rows] == ["swiglu", "topk against torch.sort"]
    assert ops.rows[0][1:5] == (
        "T4 I8",
        "625 ms",
        "1.25 s",
        "0.50 (0.50–0.50)",
    )
    assert times.rows[0][:5] == (
        "1K",
        "prefill",
        "1.50 s (1.00–2.00 s)",
        "12.0 s (8.00–16.0 s)",
        "8.00 (8.00–8.00)",
    )
    assert [row[:2] for row in times.rows] == [
        (context, phase) for phase in ("prefill", "decode") for context in ("1K", "4K", "16K")
    ]
    assert times.rows[2][3] == "not run: needs about 69 GiB, 20 GiB are free"
    assert memory.rows[0] == (
        "1K",
        "host",
        "200 MiB (200–200 MiB)",
        "1,000 MiB (1,000–1,000 MiB)",
        "0.20",
    )
    for table in (ops, times, memory):
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_an_op_that_is_not_run_is_named_once_with_its_reason() -> None:
    report = made_report()
    for rows in (1, 2):
        missing = OpResult(OpCase("row_exponents", {"T": rows, "K": 2}), "")
        missing.not_run["ours"] = "not part of the fast profile"
        report.ops.append(missing)  # type: ignore[attr-defined]
    assert text.not_run(report) == ["not run: row_exponents: not part of the fast profile"]
    assert len(text.tables(report)[0].rows) == 1
    assert "not run: row_exponents" in text.markdown(report, [])


def test_markdown_says_where_and_that_the_machine_was_busy() -> None:
    page = text.markdown(made_report(load=3.0), [("time.svg", "Time")])
    assert "> the machine was busy: load 3.0 on 2 cores before the first run" in page
    assert "- plan: cpu:0, fast, 0123abcd" in page
    assert "- packages: torch 2.13, transformers 5.23" in page
    assert "![Time](time.svg)" in page
    assert "busy" not in text.markdown(made_report(load=0.1), [])
    table = [line for line in page.splitlines() if line.startswith("| 1K")]
    assert all(line.count("|") == line.count(" | ") + 2 for line in table)


# --- pictures ---


def test_pictures_are_xml_and_name_every_line() -> None:
    for draw, lines in ((plots.time, 6), (plots.memory, 2)):
        root = ET.fromstring(draw(made_report()))
        words = [element.text for element in root.iter(f"{SVG}text")]
        assert len(root.findall(f".//{SVG}polyline")) == lines
        assert {"ours", "transformers", "1K", "4K", "16K"} <= set(words)
        assert any("A processor <of> ours & theirs" in (word or "") for word in words)


def test_a_picture_of_one_context_and_of_no_memory() -> None:
    report = made_report()
    del report.contexts[1:]  # type: ignore[attr-defined]
    ET.fromstring(plots.time(report))
    for runs in report.contexts[0].runs.values():
        for run in runs:
            run["memory"]["peak"] = None
    assert not plots.has_memory(report)


def line(name: str, *values: float) -> Series:
    points = [Point(2.0**x, y, y, y) for x, y in enumerate(values, 10)]
    return Series(name, points, "#000")


def test_equal_factors_are_equal_distances() -> None:
    panel = Panel("t", "x", [line("a", 1.0, 10.0, 100.0)], str, str)
    root = ET.fromstring(chart("t", [panel]))
    [drawn] = root.findall(f".//{SVG}polyline")
    places = [tuple(map(float, pair.split(","))) for pair in drawn.attrib["points"].split()]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.11)
    assert y2 < y0  # more is higher


def test_labels_do_not_overlap() -> None:
    lines = [line(name, 1.0, 5.0) for name in ("a", "b", "c")]
    root = ET.fromstring(chart("t", [Panel("t", "x", lines, str, str)]))
    at = [float(e.attrib["y"]) for e in root.iter(f"{SVG}text") if e.text in ("a", "b", "c")]
    assert sorted(at) == at
    assert min(b - a for a, b in itertools.pairwise(at)) >= 13.9


@pytest.mark.parametrize(
    ("low", "high", "base"), [(0.9e-3, 1.2e3, 10), (2.0, 30.0, 10), (3e8, 2e10, 2), (1e-9, 1e9, 10)]
)
def test_ticks_lie_within_the_axis_and_are_few(low: float, high: float, base: int) -> None:
    ticks = svg._ticks(low, high, base)
    assert 2 <= len(ticks) <= 9
    assert all(low <= tick <= high for tick in ticks)
    if base == 2:
        assert all(math.log2(tick).is_integer() for tick in ticks)


# --- the regression check ---


def test_a_baseline_survives_its_file(tmp_path: Path) -> None:
    made = Baseline.of(made_report({SWIGLU: 0.5, TOPK: 2.0}))
    assert made.ratios == {SWIGLU: 0.5, TOPK: 2.0}
    assert made.conditions == {
        "backend": "cpu",
        "numerics": "fast",
        "dtype": "bf16",
        "threads": 2,
    }
    path = tmp_path / "baseline.json"
    path.write_text(made.text())
    assert Baseline.read(path) == made
    assert "seconds" not in made.text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is no baseline of schema 1"),
        ('{"kind": "glm5-hal bench baseline", "schema": 2}', "is no baseline of schema 1"),
        ('{"kind": "glm5-hal bench baseline", "schema": 1}', "with a defect: KeyError"),
        (
            Baseline.of(made_report()).text().replace("swiglu", "swigul"),
            "names ops that do not exist: swigul",
        ),
        (
            Baseline.of(made_report()).text().replace('"ratio": 0.5', '"ratio": "x"'),
            "with a defect: ValueError",
        ),
    ],
)
def test_a_defect_of_a_baseline_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(content)
    with pytest.raises(AskedError, match=message):
        Baseline.read(path)


def test_a_missing_baseline_is_named(tmp_path: Path) -> None:
    with pytest.raises(AskedError, match="cannot be read"):
        Baseline.read(tmp_path / "nothing.json")


class Measured:
    """Answers with ratios in turn, and keeps what it was asked."""

    def __init__(self, *rounds: dict[OpCase, float]) -> None:
        self.rounds = list(rounds)
        self.asked: list[list[OpCase]] = []

    def __call__(self, cases: Sequence[OpCase]) -> list[OpResult]:
        self.asked.append(list(cases))
        ratios = self.rounds.pop(0)
        return [op_result(case, ratios[case], 1.0) for case in cases]


BASELINE = Baseline.of(made_report({SWIGLU: 0.5, TOPK: 2.0}))


def test_ratios_within_the_tolerance_hold() -> None:
    measured = Measured({SWIGLU: 0.5 * TOLERANCE, TOPK: 0.1})
    assert all(verdict.good for verdict in check(BASELINE, measured))
    assert measured.asked == [[SWIGLU, TOPK]]


def test_what_seems_slower_is_measured_once_more() -> None:
    measured = Measured({SWIGLU: 0.5, TOPK: 3.5}, {TOPK: 2.5})
    assert [(v.case, v.good, v.found) for v in check(BASELINE, measured)] == [
        (SWIGLU, True, 0.5),
        (TOPK, True, 2.5),
    ]
    assert measured.asked == [[SWIGLU, TOPK], [TOPK]]


def test_what_is_slower_twice_is_slower() -> None:
    measured = Measured({SWIGLU: 5.0, TOPK: 2.0}, {SWIGLU: 6.0})
    slower = [v for v in check(BASELINE, measured) if not v.good]
    assert [(v.case, v.found) for v in slower] == [(SWIGLU, 5.0)]


def test_what_does_not_run_does_not_hold() -> None:
    def measured(cases: Sequence[OpCase]) -> list[OpResult]:
        results = [OpResult(case, "torch") for case in cases]
        for result in results:
            result.not_run["ours"] = "not implemented"
        return results

    for verdict in check(BASELINE, measured):
        assert (verdict.good, verdict.found, verdict.reason) == (False, None, "not implemented")
