"""Names the tests that their marks kept from running; pytest-xdist drops even their number."""

from collections import Counter
from collections.abc import Sequence

import pytest

MARKS = ("hardware", "slow")

_left_out = pytest.StashKey[dict[str, str]]()
"""Node id to mark."""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_left_out] = {}


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        for mark in MARKS:
            if item.get_closest_marker(mark) is not None:
                item.config.stash[_left_out][item.nodeid] = mark
                break


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker hands what it left out to the controller."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash[_left_out]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Every worker collects everything, so any one that ends well tells all."""
    left_out = getattr(node, "workeroutput", {}).get("left_out", {})
    node.config.stash[_left_out].update(left_out)  # type: ignore[attr-defined]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    left_out = config.stash[_left_out]
    if not left_out:
        return
    terminalreporter.section("not run")
    for mark in MARKS:
        counts = Counter(node.split("[")[0] for node, its in left_out.items() if its == mark)
        for test, count in sorted(counts.items()):
            terminalreporter.write_line(f"{mark}: {test}" + (f" ({count} cases)" * (count > 1)))
    numbers = ", ".join(f"{n} {mark}" for mark, n in sorted(Counter(left_out.values()).items()))
    terminalreporter.write_line(f"{len(left_out)} tests were not run: {numbers}")
