"""The pages of the ops for the site: the committed ones, with the cases and the backends.

``python docs/tools/ops.py DIR`` writes ``DIR/spec``. It needs Triton and ONNX Runtime, for a
backend whose ops cannot be looked at would look like one that has none.
"""

import os
import sys
from collections import Counter
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported; the classes are the same

from glm5_hal import Backend, Numerics
from glm5_hal.backends.torch_triton.backend import TorchTritonBackend
from glm5_hal.backends.torch_triton.device import TorchDeviceBackend
from glm5_hal.conformance.case import ASPECTS, Case
from glm5_hal.conformance.catalogue import catalogue
from glm5_hal.conformance.spec import pages
from glm5_hal.contract import OPS, Kind
from glm5_hal.registry import load, registered

CELLS = {True: "own", False: "composed"}
LISTED = 12


def in_profile(backend: type[Backend], numerics: Numerics) -> type[Backend]:
    """The class that computes in a profile, without asking whether the chip is there."""
    if issubclass(backend, TorchDeviceBackend):
        return TorchTritonBackend.in_profile.__func__(backend, numerics)
    return backend.in_profile(numerics)


def answers(backend: type[Backend], name: str, numerics: Numerics) -> str:
    """How a backend answers an op in a profile."""
    op = OPS[name]
    if numerics not in backend.capabilities.profiles or op.profile not in (None, numerics):
        return "–"
    if in_profile(backend, numerics).overrides(name):
        return CELLS[True]
    if op.kind is Kind.COMPOSITE:
        return CELLS[False]
    return "–"


def backends_section(name: str) -> str:
    """Which backends answer an op."""
    rows = ["| backend | fast | exact |", "|---|---|---|"]
    for backend, point in registered().items():
        if not point.value.startswith("glm5_hal."):
            continue  # others may be installed here
        found = [answers(load(backend), name, numerics) for numerics in Numerics]
        if set(found) != {"–"}:
            page = load(backend).__module__.split(".")[-2]
            rows.append(f"| [{backend}](../backends/{page}.md) | {' | '.join(found)} |")
    said = (
        "*own*: an implementation of its own. *composed*: the composition of other ops. –: not "
        "given. Whether it was ever run on the chip stands on the backend's page."
    )
    return f"## Backends\n\n{said}\n\n" + "\n".join(rows)


def cases_section(name: str, cases: list[Case]) -> str:
    """How many cases there are of what, and what they are called."""
    rows = ["| about | profile | cases | quick |", "|---|---|---|---|"]
    for aspect in ASPECTS:
        for numerics in Numerics:
            some = [case for case in cases if (case.aspect, case.profile) == (aspect, numerics)]
            if some:
                quick = sum(case.quick for case in some)
                rows.append(f"| {aspect} | {numerics.value} | {len(some)} | {quick} |")
    listed = [case.id for case in cases if case.quick][:LISTED]
    names = "\n".join(listed)
    return (
        "## Cases\n\n" + "\n".join(rows) + "\n\n"
        f"```sh\nglm5-hal conformance run --backend mychip --quick --ops {name}\n"
        f"glm5-hal conformance list --ops {name}\n```\n\n"
        f"The first {len(listed)} of the quick ones, `REQUIREMENT/relation/input`:\n\n"
        f"```text\n{names}\n```"
    )


def main() -> None:
    """Write the pages."""
    folder = Path(sys.argv[1]) / "spec"
    folder.mkdir(parents=True, exist_ok=True)
    cases = list(catalogue().values())
    counted = Counter(case.op for case in cases)
    for file, text in pages().items():
        name = file.removesuffix(".md")
        if name in OPS and counted[name]:
            own = [case for case in cases if case.op == name]
            text += f"\n{cases_section(name, own)}\n\n{backends_section(name)}\n"
        text = text.partition("-->\n\n")[2]  # mkdocs takes a title from the first line
        (folder / file).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
