"""What the tests of the command line share by name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from typer.testing import Result

from glm5_hal.model.config import ModelConfig

Call = Callable[..., Result]
"""`glm5-hal` with some arguments."""

Ids = Callable[[object], Path]
"""A JSON file with some content."""

SMALL = replace(
    ModelConfig.load("tiny"),
    num_hidden_layers=2,
    indexer_types=("full", "shared"),
    mlp_layer_types=("dense", "sparse"),
    n_routed_experts=4,
    num_experts_per_tok=2,
)
