"""The pages that the site has beside the committed ones say what the code says."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

from glm5_hal import Numerics
from glm5_hal.backends.torch_triton.device import TorchDeviceBackend
from glm5_hal.cli import app
from glm5_hal.conformance.catalogue import catalogue
from glm5_hal.registry import load, registered

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "docs" / "tools"


def made(tool: str, folder: Path) -> dict[str, str]:
    """The pages of one script, by file name."""
    command = [sys.executable, str(TOOLS / f"{tool}.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {path.name: path.read_text("utf-8") for path in folder.rglob("*.md")}


def test_every_command_is_described(tmp_path: Path) -> None:
    pages = made("commands", tmp_path)
    text = pages["commands.md"]
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined] # it is a group
        below = getattr(command, "commands", {"": command})
        for inner in below:
            assert f"\n## glm5-hal {name} {inner}".rstrip() + "\n" in text
    assert "`--numerics PROFILE`" in text
    assert [line.split()[1] for line in pages["exit-codes.md"].splitlines() if "| " in line] == [
        *("code", "0", "1", "2", "3", "130"),
    ]


def test_every_backend_has_a_page(tmp_path: Path) -> None:
    pages = made("backends", tmp_path)
    ours = {name for name, point in registered().items() if point.value.startswith("glm5_hal.")}
    for name in ours:
        assert f"| [{name}](" in pages["index.md"]
        backend = load(name)
        text = pages[f"{backend.__module__.split('.')[-2]}.md"]
        assert f"`GLM5_HAL_BACKEND` takes `{name}`" in text
        if issubclass(backend, TorchDeviceBackend):
            about = backend._descriptor()
            said = [
                *(rule.otherwise for rule in about.rules),
                *(f"`{needed.variable}`" for needed in (*about.variables, *about.absent)),
                *(f"`{flag.flag}`" for flag in about.flags),
                *about.nondeterministic.values(),
                *about.unestablished,
                *about.triton.limits,
            ]
            assert [text for text in said if text not in pages[f"{name}.md"]] == []


def test_every_committed_package_has_its_report(tmp_path: Path) -> None:
    pages = made("reports", tmp_path)
    packages = list((ROOT / "conformance" / "evidence").glob("*/*.tar.xz"))
    reports = [path.read_text("utf-8") for path in tmp_path.rglob("*.html")]
    assert len(reports) == len(packages) == pages["index.md"].count(".html)")
    assert all("glm5-hal" in text for text in reports)


# the extra [triton], which `nox` has
@pytest.mark.skipif(find_spec("triton") is None, reason="looks at the backends that need Triton")
def test_the_page_of_an_op_has_its_cases_and_backends(tmp_path: Path) -> None:
    pages = made("ops", tmp_path)
    for op in ("mla", "topk"):
        own = [load("cpu").in_profile(numerics).overrides(op) for numerics in Numerics]
        cells = " | ".join("own" if found else "composed" for found in own)
        assert f"| [cpu](../backends/cpu.md) | {cells} |" in pages[f"{op}.md"]
        assert "| [triton-interpret](" in pages[f"{op}.md"]
    rows = re.findall(r"^\| [a-z-]+ \| (?:fast|exact) \| (\d+) \|", pages["mla.md"], re.MULTILINE)
    assert sum(map(int, rows)) == sum(case.op == "mla" for case in catalogue().values())
