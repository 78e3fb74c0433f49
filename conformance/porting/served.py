"""What the model calls: primitive op calls of a recorded step, and of a layer in it."""

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from glm5_hal import Runtime
from glm5_hal.conformance import data
from glm5_hal.contract import OPS, Kind, Op
from glm5_hal.model.config import ModelConfig
from glm5_hal.model.generate import generate
from glm5_hal.model.load import load_model
from glm5_hal.model.make_checkpoint import make_checkpoint
from glm5_hal.place import current
from glm5_hal.plan import Implementation, Plan, resolve

PROMPT = 20
"""Tokens: more than the 16 positions that the tiny model selects, so that a selection is made."""


@dataclass(frozen=True)
class Calls:
    """Op calls by the name of the op, composites as the primitives that they are made of.

    Attributes:
        step: of a forward pass and the choice of a token. A prefill and a step of decoding make the
            same calls: they differ in the number of tokens.
        layer: of its busiest layer.
    """

    step: Mapping[str, int]
    layer: Mapping[str, int]

    def share(self, op: str) -> float:
        """Of the step's calls; 0 for an op that it does not call."""
        return self.step.get(op, 0) / sum(self.step.values())


def recorded() -> Calls:
    """Count the calls of the tiny model on the CPU."""
    places = _first_token()
    layers = [calls for place, calls in places.items() if place.startswith("layer")]
    step = sum(places.values(), Counter[str]())
    busiest = max(layers, key=Counter.total)
    return Calls(MappingProxyType(dict(step)), MappingProxyType(dict(busiest)))


def _first_token() -> dict[str, Counter[str]]:
    """Calls of the generation of one token, by the part of the model."""
    plan, cpu = resolve("cpu", "fast", {})
    runtime = Runtime(_taken_apart(plan), cpu())
    found: dict[str, Counter[str]] = {}

    def count(op: Op[..., Any], *_: object) -> None:
        if op.kind is Kind.PRIMITIVE:
            found.setdefault(current(), Counter())[op.name] += 1

    with tempfile.TemporaryDirectory(prefix="glm5-hal-") as parent:
        directory = Path(parent) / "tiny"
        make_checkpoint(ModelConfig.load("tiny"), directory, seed=data.SEED, dtype="fp32")
        model = load_model(directory, runtime, positions=PROMPT + 1)
    runtime.observers.append(count)
    prompt = data.integers("porting", (PROMPT,), 0, model.config.vocab_size).tolist()
    for _ in generate(model, [prompt], max_new_tokens=1, stop=(), recorded=False):
        pass
    return found


def _taken_apart(plan: Plan) -> Plan:
    """The plan with every composite made of its parts."""
    parts = {
        name: Implementation("default", op.default.__module__)
        for name, op in OPS.items()
        if op.kind is Kind.COMPOSITE
    }
    return replace(plan, ops=MappingProxyType({**plan.ops, **parts}))
