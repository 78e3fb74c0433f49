"""The parameter table against the published totals."""

import pytest

from glm5_hal.model.config import ModelConfig
from glm5_hal.model.params import parameter_table


def test_glm5_has_744_billion_parameters_of_which_40_are_active() -> None:
    table = parameter_table(ModelConfig.load("glm5"))
    assert table.total_without_mtp == 743_911_218_432
    assert table.total == 753_864_139_008
    assert table.active == 39_881_544_192
    assert {row.name: (row.per_unit, row.units) for row in table.rows} == {
        "embedding": (951_582_720, 1),
        "mla": (165_022_208, 78),
        "indexer": (9_371_904, 78),
        "dense_mlp": (226_492_416, 3),
        "routed_experts": (37_748_736, 75 * 256),
        "shared_experts": (37_748_736, 75),
        "router": (1_573_120, 75),
        "layer_norms": (12_288, 78),
        "final_norm": (6_144, 1),
        "head": (951_582_720, 1),
        "mtp": (9_952_920_576, 1),
    }


def test_sharing_the_choice_saves_57_indexers() -> None:
    glm5, glm5_2 = (parameter_table(ModelConfig.load(name)) for name in ("glm5", "glm5_2"))
    assert glm5.total - glm5_2.total == 57 * 9_371_904
    assert glm5.active - glm5_2.active == 57 * 9_371_904


@pytest.mark.parametrize(("name", "least", "most"), [("tiny", 2e6, 3e6), ("mid", 1e8, 3e8)])
def test_the_small_configurations_are_small(name: str, least: float, most: float) -> None:
    assert least < parameter_table(ModelConfig.load(name)).total < most
