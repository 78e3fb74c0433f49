"""An environment without this project's variables, and packages that register backends."""

import os
from importlib.metadata import EntryPoint, entry_points

import pytest
from stub_backends import Install

from glm5_hal import registry


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is chosen but by the test."""
    for name in list(os.environ):
        if name.startswith("GLM5_HAL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Entry points besides those of the packages that are really there."""
    added: list[EntryPoint] = []

    def found(group: str) -> list[EntryPoint]:
        return [*entry_points(group=group), *(point for point in added if point.group == group)]

    monkeypatch.setattr(registry, "entry_points", found)

    def add(group: str = registry.GROUP, **points: str) -> None:
        added.extend(EntryPoint(name, value, group) for name, value in points.items())

    return add
