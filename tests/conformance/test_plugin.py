"""The catalogue under pytest, from a project that is not this one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import fake_cases
import pytest
from fake_runs import source

from glm5_hal.conformance.pytest_session import session_of, start

HERE = Path(__file__).parent

FAKE_SUITE = """
import os
from pathlib import Path
from glm5_hal.conformance import sources

sources.SUITE = sources.Source(
    "fake_cases:" + os.environ["CASES"], "fake_chip.chip:resolve", Path(os.environ["LISTS"])
)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a pytest configuration of its own."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (tmp_path / "fake_suite.py").write_text(FAKE_SUITE)
    return tmp_path


def pytest_in(project: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "GLM5_HAL_"))},
        "PYTHONPATH": os.pathsep.join([str(HERE), str(project)]),
        **variables,
    }
    plugin = ("-p", "glm5_hal.conformance.pytest_plugin") if not _registered() else ()
    command = [sys.executable, "-m", "pytest", "-c", str(project / "pytest.ini"), *plugin]
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", *arguments],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def _registered() -> bool:
    from importlib.metadata import entry_points

    return any(point.name == "glm5_hal" for point in entry_points(group="pytest11"))


def verdicts(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What became of each test, of the lines of ``-v``."""
    either = r"^\S*::(test_\S*) ([A-Z]+)|^\[gw\d\] \[.*\] ([A-Z]+) \S*::(test_\S*)"
    found = re.findall(either, done.stdout, re.MULTILINE)
    return {alone or shared: status or late for alone, status, late, shared in found}


def run_mixed(
    project: Path, *arguments: str, cases: str = "mixed"
) -> subprocess.CompletedProcess[str]:
    return pytest_in(
        project,
        *("-p", "fake_suite", "--pyargs", "glm5_hal.conformance", "-v", "-rsx"),
        *("--hal-backend", "chip", *arguments),
        CASES=cases,
        LISTS=str(project / "lists"),
    )


def test_the_same_verdicts_with_and_without_xdist(project: Path) -> None:
    source(fake_cases.mixed, project / "lists")
    (project / "lists" / "fast-full.txt").write_text("TOPK-9/a\n")
    alone = run_mixed(project, "-n", "0", "--junitxml", "alone.xml")
    shared = run_mixed(project, "-n", "2")
    assert verdicts(alone) == {
        "test_case[TOPK-1/parity/passes]": "PASSED",
        "test_case[TOPK-1/parity/fails]": "FAILED",
        "test_case[TOPK-1/parity/segfaults]": "FAILED",
        "test_case[TOPK-1/waived/fails]": "XFAIL",
        "test_case[TOPK-1/waived/passes]": "FAILED",
        "test_case[MLA-1/parity/a]": "SKIPPED",
        "test_case[RUN-6/repeat/topk]": "SKIPPED",
        "test_must_pass_list": "FAILED",
    }
    assert verdicts(shared) == verdicts(alone)
    assert alone.returncode == shared.returncode == 1
    for text in (alone.stdout, shared.stdout):
        assert "CRASH TOPK-1/parity/segfaults  (function of topk)" in text
        assert "  first at  output 0 at [1, 1]" in text
        assert "--case 'TOPK-1/parity/fails'" in text
        assert "missing: TOPK-9/a" in text
        assert "NOT_RUN: not claimed by backend chip" in text
        assert "UNSUPPORTED: no such unit" in text
    assert '<property name="requirement" value="TOPK-1"' in (project / "alone.xml").read_text()


def test_the_profile_chooses_the_cases_and_the_list(project: Path) -> None:
    source(fake_cases.two_profiles, project / "lists")
    judged = {}
    for profile in ("fast", "exact"):
        done = run_mixed(project, "--hal-numerics", profile, "-n", "0", cases="two_profiles")
        assert done.returncode == 0, done.stdout
        judged[profile] = sorted(verdicts(done))
    quick = run_mixed(
        project, "--hal-numerics", "exact", "--hal-quick", "-n", "0", cases="two_profiles"
    )
    assert judged == {
        "fast": ["test_case[TOPK-1/parity/a]", "test_must_pass_list"],
        "exact": [
            "test_case[exact/TOPK-1/parity/a]",
            "test_case[exact/TOPK-1/parity/b]",
            "test_must_pass_list",
        ],
    }
    assert sorted(verdicts(quick)) == ["test_case[exact/TOPK-1/parity/a]", "test_must_pass_list"]


def test_the_environment_chooses_the_profile(project: Path) -> None:
    arguments = ("--pyargs", "glm5_hal.conformance", "--hal-backend", "cpu", "--hal-quick")
    done = pytest_in(project, *arguments, "--collect-only", "-q", GLM5_HAL_NUMERICS="exact")
    collected = [line for line in done.stdout.splitlines() if "::test_case[" in line]
    assert collected
    assert all("::test_case[exact/" in line for line in collected)


def test_usage(pytestconfig: pytest.Config) -> None:
    with pytest.raises(pytest.UsageError, match=r"need --hal-backend NAME\[:INDEX\]"):
        session_of(pytestconfig)
    with pytest.raises(pytest.UsageError, match="unknown backend 'nope'; registered: "):
        start(pytestconfig, "nope", None, quick=False)


def test_the_plugin_imports_nothing_until_it_is_used(project: Path) -> None:
    (project / "test_theirs.py").write_text(
        "import sys\n"
        "def test_modules():\n"
        "    assert 'glm5_hal.conformance.pytest_plugin' in sys.modules\n"
        "    ours = [name for name in sys.modules if name.startswith('glm5_hal')]\n"
        "    assert len(ours) == 3, ours\n"
        "    assert 'torch' not in sys.modules\n"
    )
    done = pytest_in(project, "test_theirs.py")
    assert done.returncode == 0, done.stdout
