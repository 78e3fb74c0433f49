"""The report: escaped, whole without a network, and never showing more than the results do."""

import base64
import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from html.parser import HTMLParser

import pytest

from glm5_hal.conformance.case import ASPECTS, Result, Status
from glm5_hal.conformance.compare import Difference
from glm5_hal.conformance.mustpass import MustPass
from glm5_hal.conformance.report import render
from glm5_hal.conformance.report.accuracy import MOST_BARS
from glm5_hal.conformance.report.failures import DETAILED
from glm5_hal.conformance.report.reading import MODEL
from glm5_hal.conformance.verdict import Shown, counts, missing_levels
from glm5_hal.contract import OPS
from glm5_hal.requirements import REQUIREMENTS

BROKEN = (Status.FAIL, Status.CRASH, Status.TIMEOUT)
VOID = {"input", "meta", "wbr", "br"}
PAYLOAD = """<script>alert("x")</script>'&<b>"""


def result(
    requirement: str = "TOPK-1",
    op: str = "topk",
    aspect: str = "function",
    status: Status = Status.PASS,
    label: str = "T9-S300-k33/normal/fp32",
    relation: str = "parity",
) -> Result:
    return Result(
        id=f"{requirement}/{relation}/{label}",
        requirement=requirement,
        op=op,
        aspect=aspect,
        relation=relation,
        status=status,
        seconds=0.25,
        message="" if status is Status.PASS else "told why",
        reproduce=f"GLM5_HAL_BACKEND=chip glm5-hal conformance run --case '{requirement}'",
        digests={"output0": "ab" * 32} if status is Status.PASS else {},
    )


def plain_manifest(results: Sequence[Result], **changed: object) -> dict[str, object]:
    """What a finished, clean run writes."""
    must_pass = MustPass("fast-full", tuple(sorted(r.id for r in results)))
    ops = {name: {"source": "native", "where": f"chip.backend.{name}"} for name in OPS}
    manifest: dict[str, object] = {
        "suite_version": "0.1.0",
        "contract_version": 1,
        "commit": "0123456789abcdef",
        "dirty": False,
        "profile": "fast",
        "quick": False,
        "partial": False,
        "plan": {"ops": ops},
        "plan_hash": "ab" * 32,
        "backend": "chip",
        "device": "Chip 9000",
        "claims": ["batch-invariant", "run-to-run"],
        "started": "2026-02-11T08:00:00+00:00",
        "seconds": 312.5,
        "counts": counts(results),
        "levels_without_cases": missing_levels(results),
        "must_pass_list": must_pass.name,
        "must_pass_hash": must_pass.sha256,
        "waivers": [{"case": "LINEAR-2/*", "reason": "splits K", "date": "2026-02-01"}],
        "versions": {"torch": "2.9.0"},
        "environment": {"GLM5_HAL_BACKEND": "chip"},
        "files": {"results.jsonl": "cd" * 32},
        "shown": Shown.of(results, must_pass, partial=False, substituted=(), dirty=False).to_dict(),
    }
    return {**manifest, **changed}


def good_results() -> list[Result]:
    return [
        result(),
        result("LINEAR-2", "linear", "batch-invariant", relation="invariance"),
        result("RUN-1", "linear", "run-to-run", relation="repeat"),
    ]


def synthetic(number: int, broken: float = 0.02) -> list[Result]:
    """As many results as asked for, of every op and aspect, with long failures."""
    draw = random.Random(5)
    difference = Difference(
        0, (3, 41), "0x3f1c (0.609375)", "0x3f1d (0.61328125)", 1, 37, 96, "low"
    )
    made = []
    for place in range(number):
        requirement = draw.choice(sorted(REQUIREMENTS))
        label = f"T{place}-K6144-N2048/outlier60/{draw.choice(('fp32', 'bf16'))}"
        one = result(requirement, draw.choice([*OPS, MODEL]), draw.choice(ASPECTS), label=label)
        if draw.random() < broken:
            one = replace(
                one,
                status=Status.FAIL,
                message=f"row 3 alone has other bytes: {difference}",
                change="row 3 alone instead of 33 rows",
                difference={**asdict(difference), "index": [3, 41]},
                hint="the library picks another kernel by the number of rows",
            )
        elif one.aspect == "accuracy":
            one = replace(one, worst=draw.random(), ulps={0: 9000, 1: 700, 4: 3})
        made.append(one)
    return made


class Page(HTMLParser):
    """A parsed report; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.matrix: dict[str, list[str]] = {}
        self._parts: list[str] = []
        self._open: list[tuple[str, str]] = []
        self._row: list[str] = []
        self.feed(text)
        assert not self._open
        self.text = "".join(self._parts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.tags[tag] += 1
        self.attributes += given.items()
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "a":
            self.links.append(given["href"])
        if tag not in VOID:
            self._open.append((tag, given.get("class", "")))
        if tag == "tr":
            self._row = []
        if tag in ("td", "th"):
            self._row.append("")

    def handle_endtag(self, tag: str) -> None:
        name, _ = self._open.pop()
        assert name == tag
        if tag == "tr" and self._within("table", "matrix"):
            self.matrix[self._row[0]] = self._row[1:]

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][0] not in ("style", "script"):
            self._parts.append(data)
        if self._row:
            self._row[-1] += data

    def _within(self, tag: str, style: str) -> bool:
        return (tag, style) in self._open


def page(results: Sequence[Result], **changed: object) -> Page:
    return Page(render(plain_manifest(results, **changed), results))


def verdict(results: Sequence[Result], **changed: object) -> str:
    text = render(plain_manifest(results, **changed), results)
    return text.partition("<h1>")[2].partition("</h1>")[0]


# --- escaping and standing alone ---


def test_every_text_of_a_result_is_escaped() -> None:
    difference = Difference(0, (1,), PAYLOAD, PAYLOAD, 3, 1, 2, PAYLOAD)
    hostile = Result(
        id=f"{PAYLOAD}/{PAYLOAD}",
        requirement=PAYLOAD,
        op=PAYLOAD,
        aspect=PAYLOAD,
        relation=PAYLOAD,
        status=Status.FAIL,
        seconds=1.0,
        message=PAYLOAD,
        change=PAYLOAD,
        difference={**asdict(difference), "index": [1]},
        hint=PAYLOAD,
        reproduce=PAYLOAD,
        worst=0.5,
        ulps={1: 3},
    )
    passed = replace(hostile, id="x", status=Status.PASS, message="", digests={PAYLOAD: PAYLOAD})
    waived = replace(hostile, id="y", status=Status.EXPECTED_FAIL)
    results = [hostile, passed, waived]
    text = render(plain_manifest(results), results)
    assert "alert(&quot;x&quot;)" in text
    assert "<script>alert" not in text
    assert Page(text).tags["script"] == 1
    assert Page(text).tags["b"] == page([replace(r, op="o") for r in results]).tags["b"]


@pytest.mark.parametrize("key", sorted(plain_manifest([])))
def test_every_text_of_the_manifest_is_escaped(key: str) -> None:
    nested = {PAYLOAD: {PAYLOAD: [PAYLOAD, {PAYLOAD: PAYLOAD}]}}
    for value in (PAYLOAD, [PAYLOAD, nested], nested, {"ops": nested, "levels": nested}):
        text = render(plain_manifest(good_results(), **{key: value}), good_results())
        assert "<script>alert" not in text
        assert text.count("<script") == 1


def test_nothing_is_fetched_from_elsewhere() -> None:
    text = render(plain_manifest(synthetic(60)), synthetic(60))
    assert "http://" not in text
    assert "https://" not in text
    found = Page(text)
    assert not found.tags.keys() & {"link", "img", "iframe", "object", "embed", "base"}
    assert not {key for key, _ in found.attributes} & {"src", "srcset", "onclick", "onload"}
    assert "url(" not in text
    assert "@import" not in text


def test_only_the_reports_own_script_may_run() -> None:
    text = render(plain_manifest([]), [])
    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text


def test_links_lead_somewhere_and_ids_are_unique() -> None:
    found = page(synthetic(400))
    assert len(found.ids) == len(set(found.ids))
    assert {link.removeprefix("#") for link in found.links} <= set(found.ids)


def test_a_lone_surrogate_does_not_prevent_writing() -> None:
    results = [replace(result(status=Status.FAIL), message="bad \udc80 byte")]
    assert "bad ? byte" in render(plain_manifest(results), results).encode().decode()


# --- content ---


def test_a_run_without_results_says_so() -> None:
    found = page([])
    assert "This run claims nothing." in found.text
    assert "No case ran." in found.text
    assert f"{len(REQUIREMENTS)} of {len(REQUIREMENTS)} have no executed case" in found.text


def test_an_empty_manifest_claims_nothing() -> None:
    text = render({}, good_results())
    assert "<h1>This run claims nothing.</h1>" in text
    assert "The manifest draws no conclusions." in text
    assert "not recorded" in text


def test_every_status_appears_with_symbol_and_word() -> None:
    results = [result(status=status, label=f"{status.name}/fp32") for status in Status]
    found = page(results)
    words = ("passed", "failed", "crashed", "timed out", "unsupported", "expected to fail")
    for word in (*words, "not run"):
        assert word in found.text
    for symbol in "✓✗‼∞≈○–":
        assert symbol in found.text
    assert found.matrix["topk"][ASPECTS.index("function")] == "‼ 1/7"
    assert found.text.count("told why") >= len(BROKEN)


def test_the_matrix_counts() -> None:
    results = synthetic(700, broken=0.1)
    found = page(results)
    expected = Counter((r.op, r.aspect) for r in results)
    passed = Counter((r.op, r.aspect) for r in results if r.status is Status.PASS)
    for op in (*OPS, MODEL):
        for cell, aspect in zip(found.matrix[op], ASPECTS, strict=True):
            total = expected[op, aspect]
            assert cell.split()[-1] == (f"{passed[op, aspect]}/{total}" if total else "·")
    assert list(found.matrix)[1:-1] == [*OPS, MODEL]
    totals = [cell.split()[-1].replace(",", "") for cell in found.matrix["all"]]
    assert sum(int(cell.partition("/")[2]) for cell in totals) == len(results)


def test_an_aspect_that_was_not_run_has_a_reason() -> None:
    claimed = result("RUN-6", "topk", "thread-invariant", Status.NOT_RUN, relation="invariance")
    found = page([*good_results(), replace(claimed, message="not claimed by backend chip")])
    assert "thread-invariant was not run: not claimed by backend chip" in found.text
    assert "rank-invariant was not run: does not exist yet in this version" in found.text


def test_a_failure_is_told_in_full() -> None:
    difference = Difference(1, (3, 41), "0x3f1c (0.609375)", "0x3f1d (0.61)", 1, 24, 96, "low bits")
    failing = replace(
        result("LINEAR-2", "linear", "batch-invariant", Status.FAIL),
        message=f"other bytes alone: {difference}",
        change="row 3 alone",
        difference={**asdict(difference), "index": [3, 41]},
        hint="another kernel for one row",
    )
    text = render(plain_manifest([failing]), [failing])
    found = Page(text).text
    assert REQUIREMENTS["LINEAR-2"].text in found
    for part in ("row 3 alone", "output 1 at [3, 41]", "1 ULP", "24 of 96 elements differ (25 %)"):
        assert part in found
    assert "low bits" in found
    assert "another kernel for one row" in found
    assert "0011 1111 0001 110<mark>0</mark>" in text
    assert "0011 1111 0001 110<mark>1</mark>" in text
    assert failing.reproduce in found
    card = text.partition('class="case"')[2].partition("</details>")[0]
    assert "<dd>other bytes alone</dd>" in card


def test_results_of_other_shapes_are_shown_as_they_are() -> None:
    difference = Difference(0, (), "float32 [3, 4]", "float32 [4, 3]", None, 0, 0)
    failing = replace(result(status=Status.FAIL), difference={**asdict(difference), "index": []})
    text = render(plain_manifest([failing]), [failing])
    assert "<td>float32 [3, 4]</td>" in text
    assert "<mark>" not in text


def test_requirements_without_an_executed_case_stand_out() -> None:
    silent = result("RUN-2", "topk", "run-to-run", Status.NOT_RUN)
    results = [*good_results(), silent]
    text = render(plain_manifest(results), results)
    rows = {
        row.partition('class="nowrap">')[2].partition("<")[0]: row.partition(">")[0]
        for row in text.partition('id="requirements"')[2].split("<tr")
    }
    assert "missing" not in rows["TOPK-1"]
    assert "missing" in rows["RUN-2"]
    assert "missing" in rows["TOPK-2"]
    assert rows.keys() >= REQUIREMENTS.keys()


def test_accuracy_by_op_and_dtype() -> None:
    fp32 = replace(
        result("LINEAR-1", "linear", "accuracy", label="T9/normal/fp32"),
        worst=0.25,
        ulps={0: 900, 1: 90, 2**30: 1},
    )
    bf16 = replace(
        result("LINEAR-1", "linear", "accuracy", label="T9/normal/bf16"), worst=1.5, ulps={0: 10}
    )
    other = replace(fp32, id="LINEAR-1/accuracy/T10/normal/fp32", worst=0.125)
    text = render(plain_manifest([fp32, bf16, other]), [fp32, bf16, other])
    plot = text.partition('class="plot"')[2].partition("</section>")[0]
    assert "linear fp32: elements by error in ULP, ≤½: 1,800, ≤1: 180, ≤2³⁰: 2" in plot
    assert "linear bf16: elements by error in ULP, ≤½: 10" in plot
    assert "0.25 of the bound" in plot
    assert "1.5 of the bound" in plot
    assert plot.count("gauge over") == 1
    for figure in plot.split("<svg")[1:]:
        assert figure.count("≤") - figure.partition(">")[0].count("≤") <= MOST_BARS + 1


def test_the_slowest_cases_come_first() -> None:
    results = [replace(r, seconds=float(n)) for n, r in enumerate(synthetic(30, 0))]
    table = render(plain_manifest(results), results).partition("Slowest cases")[2]
    order = [table.index(f"{r.id}<") for r in reversed(results[20:])]
    assert order == sorted(order)
    assert all(r.id not in table.partition("</table>")[0] for r in results[:20])


def test_unknown_ops_aspects_and_requirements_are_kept() -> None:
    odd = result("NEW-1", "new_op", "new-aspect")
    found = page([odd])
    assert found.matrix["new_op"][-1] == "✓ 1/1"
    assert "not a requirement of the contract of this version" in found.text


# --- the verdict ---


def test_a_supported_claim() -> None:
    sentence = verdict(good_results())
    assert sentence == (
        "chip claims run-to-run and batch-invariant in the fast profile, and this run supports it."
    )
    assert "on the quick selection" in verdict(good_results(), quick=True)


def test_a_claim_that_the_run_does_not_support() -> None:
    results = [*good_results(), result("LINEAR-3", "linear", status=Status.CRASH)]
    found = page(results).text
    assert "this run does not support it: 1 crashed." in found
    assert "Function: of 2 cases 1 crashed (linear)." in found
    assert "1 cases: CRASH" not in found.partition("The whole manifest")[0]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"partial": True}, "partial selection"),
        ({"dirty": True}, "the suite is not the one"),
        ({"substituted": ("rope",)}, "ops ran on the CPU instead of the backend: rope"),
    ],
)
@pytest.mark.parametrize("broken", [False, True])
def test_runs_that_claim_nothing(changed: dict[str, object], reason: str, broken: bool) -> None:
    results = [*good_results(), result("ROPE-1", "rope", status=Status.FAIL)][: 4 if broken else 3]
    must_pass = MustPass("fast-full", tuple(sorted(r.id for r in results)))
    flags = {"partial": False, "dirty": False, "substituted": (), **changed}
    shown = Shown.of(results, must_pass, **flags)  # type: ignore[arg-type]
    manifest = plain_manifest(results, **changed, shown=shown.to_dict())
    text = render(manifest, results)
    assert "<h1>This run claims nothing" in text
    assert reason.lower() in text.partition("</ul>")[0].lower()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"partial": True}, "although the selection is partial"),
        ({"partial": None}, "although the selection is partial"),
        ({"dirty": True}, "although the suite was dirty"),
        ({"plan": {"ops": {"rope": {"source": "substitute"}}}}, "although the CPU stood in"),
        ({"counts": {"PASS": 9}}, "The counts of the manifest are not those of the results."),
        ({"shown": None}, "The manifest draws no conclusions."),
    ],
)
def test_a_manifest_that_says_too_much(changed: dict[str, object], reason: str) -> None:
    text = render(plain_manifest(good_results(), **changed), good_results())
    assert "<h1>This run claims nothing.</h1>" in text
    assert reason in text


def test_exceptions_of_a_supported_claim_are_named() -> None:
    waived = result("LINEAR-2", "linear", "batch-invariant", Status.EXPECTED_FAIL, label="x/fp32")
    results = [*good_results(), waived]
    claims = ["batch-invariant", "rank-invariant"]
    found = page(results, claims=claims).text
    assert "supports it, except for rank-invariant and 1 expected failure." in found
    assert "because of expected failures: batch-invariant of linear." in found
    assert "because no case of it was executed: rank-invariant." in found


# --- size, time, determinism ---


@pytest.mark.parametrize("broken", [0.02, 1.0])
def test_three_thousand_cases(broken: float) -> None:
    results = synthetic(3000, broken)
    manifest = plain_manifest(results)
    start = time.perf_counter()
    text = render(manifest, results)
    assert time.perf_counter() - start < 10
    assert len(text.encode()) < 3e6
    failing = sum(r.status is Status.FAIL for r in results)
    assert text.count('class="case"') == min(failing, DETAILED)
    assert text.count("data-status=") == len(results)


def test_equal_input_gives_equal_bytes() -> None:
    results = synthetic(300)
    manifest = plain_manifest(results)
    first = render(manifest, results)
    shuffled = random.Random(1).sample(results, len(results))
    read_back = json.loads(json.dumps(manifest, sort_keys=True))
    assert render(manifest, results) == first
    assert render(read_back, shuffled) == first
