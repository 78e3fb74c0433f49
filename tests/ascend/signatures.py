"""schemas.yaml as torch writes signatures."""

from collections.abc import Mapping
from pathlib import Path

import yaml

FILE = Path(__file__).parent / "schemas.yaml"


def signatures() -> dict[str, str]:
    """By the function's name, such as ``npu_swiglu(Tensor input, int dim=-1) -> Tensor``."""
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {name: _signature(name, entry) for name, entry in content.items()}


def _signature(name: str, entry: Mapping[str, Mapping[str, str] | str]) -> str:
    given, only = ([_parameter(*pair) for pair in _part(entry, key)] for key in ("given", "only"))
    parameters = [*given, *(["*", *only] if only else [])]
    returns = str(entry["returns"]).split()
    result = returns[0] if len(returns) == 1 else f"({', '.join(returns)})"
    return f"{name}({', '.join(parameters)}) -> {result}"


def _part(entry: Mapping[str, Mapping[str, str] | str], key: str) -> list[tuple[str, str]]:
    part = entry.get(key, {})
    assert not isinstance(part, str)
    return list(part.items())


def _parameter(name: str, kind: str) -> str:
    plain, has_default, default = kind.partition(" = ")
    return f"{plain} {name}={default}" if has_default else f"{plain} {name}"
