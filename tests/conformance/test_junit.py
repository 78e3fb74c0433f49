"""JUnit XML holds what a CI system shows."""

from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from glm5_hal.conformance.case import Result, Status
from glm5_hal.conformance.junit import junit

PASSED = Result("TOPK-1/parity/a", "TOPK-1", "topk", "function", "parity", Status.PASS, 0.25)
RESULTS = [
    PASSED,
    replace(PASSED, id="TOPK-1/parity/b", status=Status.FAIL, message="bad \x00\ud800 <bytes>"),
    replace(PASSED, id="TOPK-1/parity/c", status=Status.CRASH, message="SIGSEGV"),
    replace(PASSED, id="TOPK-1/parity/d", status=Status.TIMEOUT, message="hangs"),
    replace(PASSED, id="TOPK-1/parity/e", status=Status.UNSUPPORTED, message="no unit"),
    replace(PASSED, id="TOPK-1/parity/f", status=Status.EXPECTED_FAIL, message="known"),
    replace(PASSED, id="TOPK-1/parity/g", status=Status.NOT_RUN, message="not claimed"),
]


@pytest.fixture(scope="module")
def suite() -> ET.Element:
    root = ET.fromstring(junit(RESULTS, "chip"))
    assert root.tag == "testsuites"
    return root[0]


def test_totals(suite: ET.Element) -> None:
    assert suite.attrib == {
        "name": "chip",
        "tests": "7",
        "failures": "1",
        "errors": "2",
        "skipped": "3",
        "time": "1.750",
    }


def test_every_case_has_its_properties(suite: ET.Element) -> None:
    for case, result in zip(suite, RESULTS, strict=True):
        found = {p.attrib["name"]: p.attrib["value"] for p in case.iter("property")}
        assert (case.attrib["name"], case.attrib["classname"]) == (result.id, "topk")
        assert found == {
            "requirement": "TOPK-1",
            "aspect": "function",
            "relation": "parity",
            "status": result.status.value,
        }


def test_outcomes(suite: ET.Element) -> None:
    kinds = [[child.tag for child in case if child.tag != "properties"] for case in suite]
    assert kinds == [[], ["failure"], ["error"], ["error"], ["skipped"], ["skipped"], ["skipped"]]
    failure = suite[1].find("failure")
    assert failure is not None
    assert (
        failure.attrib["message"]
        == "bad \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} <bytes>"
    )
    assert failure.text is not None
    assert "TOPK-1: Set: the k best" in failure.text


def test_equal_results_give_equal_bytes() -> None:
    assert junit(RESULTS, "chip") == junit(RESULTS, "chip")
