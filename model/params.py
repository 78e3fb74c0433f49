"""How many parameters a configuration has, counted from the table of tensors."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glm5_hal.model.tensors import expected_tensors

if TYPE_CHECKING:
    from glm5_hal.model.config import ModelConfig
    from glm5_hal.model.tensors import Component, TensorSpec

_UNIT = re.compile(r"(model\.layers\.\d+\.)?(mlp\.experts\.\d+\.)?")
_NOT_ACTIVE: frozenset[Component] = frozenset({"embedding", "head", "mtp"})


@dataclass(frozen=True)
class ParameterRow:
    """One component: `units` equal parts (layers, experts) of `per_unit` parameters."""

    name: Component
    per_unit: int
    units: int

    @property
    def total(self) -> int:
        """Parameters of all units."""
        return self.per_unit * self.units


@dataclass(frozen=True)
class ParameterTable:
    """The components in model order, and their sums.

    `active` counts the parameters that one token uses in the hidden layers: of the routed experts
    the chosen ones; embedding, head, MTP layer and the router's bias not at all.
    """

    rows: tuple[ParameterRow, ...]
    active: int

    @property
    def total(self) -> int:
        """All parameters, with the MTP layer."""
        return sum(row.total for row in self.rows)

    @property
    def total_without_mtp(self) -> int:
        """All parameters of the model proper: hidden layers, embedding, head."""
        return sum(row.total for row in self.rows if row.name != "mtp")


def parameter_table(config: ModelConfig) -> ParameterTable:
    """Counts the parameters of every component, the MTP layer's if the configuration has one."""
    components: defaultdict[Component, list[TensorSpec]] = defaultdict(list)
    for spec in expected_tensors(config, mtp=config.num_nextn_predict_layers > 0):
        components[spec.component].append(spec)
    rows = tuple(_row(name, specs) for name, specs in components.items())
    active = sum(
        _active(config, spec)
        for name, specs in components.items()
        if name not in _NOT_ACTIVE
        for spec in specs
    )
    return ParameterTable(rows, active)


def _row(name: Component, specs: list[TensorSpec]) -> ParameterRow:
    total = sum(spec.numel for spec in specs)
    prefixes = {match[0] for spec in specs if (match := _UNIT.match(spec.name))}
    units = 1 if name == "mtp" else len(prefixes)
    return ParameterRow(name, total // units, units)


def _active(config: ModelConfig, spec: TensorSpec) -> int:
    """How much of a tensor one token uses: experts are alike, so the first ones stand for all."""
    if spec.kind == "fp32":
        return 0
    if spec.component == "routed_experts":
        expert = int(spec.name.split(".experts.")[1].split(".")[0])
        return spec.numel if expert < config.num_experts_per_tok else 0
    return spec.numel
