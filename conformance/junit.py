"""Results as JUnit XML, for CI systems."""

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from glm5_hal.conformance.case import Result, Status
from glm5_hal.conformance.text import teach

_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SKIPPED = (Status.UNSUPPORTED, Status.EXPECTED_FAIL, Status.NOT_RUN)
_ERRORS = (Status.CRASH, Status.TIMEOUT)


def junit(results: Sequence[Result], name: str) -> bytes:
    """A file with one test case a result, its requirement, aspect and relation as properties."""
    suite = ET.Element(
        "testsuite",
        name=name,
        tests=str(len(results)),
        failures=str(sum(r.status is Status.FAIL for r in results)),
        errors=str(sum(r.status in _ERRORS for r in results)),
        skipped=str(sum(r.status in _SKIPPED for r in results)),
        time=f"{sum(r.seconds for r in results):.3f}",
    )
    for result in results:
        suite.append(_case(result))
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _case(result: Result) -> ET.Element:
    case = ET.Element(
        "testcase",
        classname=result.op,
        name=_legal(result.id),
        time=f"{result.seconds:.3f}",
    )
    properties = ET.SubElement(case, "properties")
    for key in ("requirement", "aspect", "relation"):
        ET.SubElement(properties, "property", name=key, value=_legal(getattr(result, key)))
    ET.SubElement(properties, "property", name="status", value=result.status.value)
    if result.status in _SKIPPED:
        message = f"{result.status.value}: {result.message}"
        ET.SubElement(case, "skipped", message=_legal(message))
    elif result.status is not Status.PASS:
        kind = "error" if result.status in _ERRORS else "failure"
        found = ET.SubElement(case, kind, type=result.status.value, message=_legal(result.message))
        found.text = _legal(teach(result))
    return case


def _legal(text: str) -> str:
    """Text without what XML cannot hold."""
    return _ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", text)
