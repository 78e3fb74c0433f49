"""The page that holds every section."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from string import Template

from glm5_hal.conformance.case import Result
from glm5_hal.conformance.report import (
    accuracy,
    cases,
    environment,
    failures,
    matrix,
    requirements,
    static,
    timings,
)
from glm5_hal.conformance.report.header import header
from glm5_hal.conformance.report.markup import join, tag
from glm5_hal.conformance.report.reading import Run
from glm5_hal.conformance.static_evidence import StaticEvidence


@cache
def _template() -> tuple[Template, str]:
    """The page, and the hash of its script for the content security policy."""
    page = files("glm5_hal.conformance.report").joinpath("page.html").read_text("utf-8")
    script = page.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(page), f"sha256-{digest}"


_SECTIONS = (
    ("failures", "Failures", failures.section),
    ("matrix", "Matrix", matrix.section),
    ("accuracy", "Accuracy", accuracy.section),
    ("timings", "Time", timings.section),
    ("requirements", "Requirements", requirements.section),
    ("static", "Static audit", static.section),
    ("cases", "All cases", cases.section),
    ("environment", "Environment", environment.section),
)


def render(
    manifest: Mapping[str, object],
    results: Sequence[Result],
    audited: StaticEvidence | None = None,
) -> str:
    """The report as one HTML document; equal arguments give equal bytes.

    Args:
        manifest: of the result package; `glm5_hal.conformance.report` says what is read.
        results: of all cases, in any order.
        audited: an audit of the backend's kernels, if one is attached.
    """
    run = Run.of(manifest, results, audited)
    page, script_hash = _template()
    nav = (tag("li", tag("a", text, href=f"#{name}")) for name, text, _ in _SECTIONS)
    text = page.substitute(
        script_hash=script_hash,
        title=escape(f"{run.text('backend')}: glm5-hal conformance report"),
        header=header(run),
        nav=join(nav),
        main=join(section(run) for _, _, section in _SECTIONS),
        footer="Made from manifest.json and results.jsonl; the files next to it are the evidence.",
    )
    return text.encode(errors="replace").decode()  # a lone surrogate would not go into a file
