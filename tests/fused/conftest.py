"""Kernels are interpreted here, and no library of a vendor's is imported unless a test puts one."""

import os
import sys
from collections.abc import Iterator

import pytest

os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton

LIBRARIES = frozenset(
    {
        "mate",
        "lightop",
        "flash_mla",
        "deep_gemm",
        "mcoplib",
        "kunlun_ops",
        "xspeedgate_ops",
        "torch_mlu_ops",
    }
)


class _Watch:
    """Notes every import of a vendor's library, before any finder looks for it."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in LIBRARIES:
            self.seen.append(name)


@pytest.fixture
def imported() -> Iterator[list[str]]:
    """Names of vendors' modules that the test imported and that were not there."""
    watch = _Watch()
    sys.meta_path.insert(0, watch)  # type: ignore[arg-type]
    yield watch.seen
    sys.meta_path.remove(watch)  # type: ignore[arg-type]
