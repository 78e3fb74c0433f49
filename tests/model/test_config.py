"""The published hyper-parameters: what is read, what is derived, what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glm5_hal.model.config import ConfigError, ModelConfig

BUNDLED = ["glm5", "glm5_2", "mid", "tiny"]


def published(**changes: Any) -> dict[str, Any]:
    """tiny as a published dictionary with some keys changed, and those set to `...` left out."""
    merged = ModelConfig.load("tiny").to_published_dict() | changes
    return {key: value for key, value in merged.items() if value is not ...}


def problems(**changes: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_dict(published(**changes))
    return caught.value.problems


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_configuration_survives_publication(name: str, tmp_path: Path) -> None:
    config = ModelConfig.load(name)
    (tmp_path / "config.json").write_text(json.dumps(config.to_published_dict()))
    assert ModelConfig.load(tmp_path) == config
    assert ModelConfig.load(str(tmp_path / "config.json")) == config


@pytest.mark.parametrize("name", BUNDLED)
def test_transformers_reads_the_published_form(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = ModelConfig.load(name)
    theirs = transformers.GlmMoeDsaConfig(**config.to_published_dict())
    assert tuple(theirs.indexer_types) == config.indexer_types
    assert tuple(theirs.mlp_layer_types) == config.mlp_layer_types
    assert theirs.rope_parameters["rope_theta"] == config.rope_theta
    assert theirs.qk_head_dim == config.qk_head_dim
    assert ModelConfig.from_dict(json.loads(theirs.to_json_string(use_diff=False))) == config


def test_glm5_is_three_dense_and_75_sparse_layers_with_an_indexer_each() -> None:
    config = ModelConfig.load("glm5")
    assert [layer for layer in range(78) if not config.is_sparse(layer)] == [0, 1, 2]
    assert all(config.is_full(layer) for layer in range(78))
    assert config.is_sparse(config.mtp_layer)
    assert config.qk_head_dim == 256
    assert config.eos_token_id == (154820, 154827, 154829)


def test_glm5_2_shares_each_choice_among_four_layers() -> None:
    config = ModelConfig.load("glm5_2")
    full = [layer for layer in range(78) if config.is_full(layer)]
    assert full == [0, 1, *range(2, 78, 4)]
    assert len(full) == 21
    assert config.is_full(config.mtp_layer)
    assert (config.rope_theta, config.max_position_embeddings) == (8e6, 1048576)
    assert config.index_share_for_mtp_iteration


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "FFFF"),
        ({"index_topk_freq": 2}, "FFSF"),
        ({"index_topk_freq": 2, "index_skip_topk_offset": 3}, "FFFS"),
        ({"index_topk_freq": 2, "index_topk_pattern": "FSSS"}, "FSSS"),
        ({"index_topk_pattern": ["full", "shared", "full", "full"]}, "FSFF"),
        ({"index_topk_pattern": "FSSS", "indexer_types": ["full"] * 4}, "FFFF"),
    ],
)
def test_indexer_types_come_from_list_then_pattern_then_schedule(
    changes: dict[str, Any], expected: str
) -> None:
    config = ModelConfig.from_dict(published(**{"indexer_types": ..., **changes}))
    assert "".join(kind[0].upper() for kind in config.indexer_types) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "dsss"),
        ({"first_k_dense_replace": 0, "moe_layer_freq": 2}, "sdsd"),
        ({"first_k_dense_replace": 9}, "dddd"),
        ({"mlp_layer_types": ["dense", "dense", "sparse", "dense"]}, "ddsd"),
    ],
)
def test_mlp_layer_types_come_from_list_then_schedule(
    changes: dict[str, Any], expected: str
) -> None:
    config = ModelConfig.from_dict(published(**{"mlp_layer_types": ..., **changes}))
    assert "".join(kind[0] for kind in config.mlp_layer_types) == expected


def test_first_k_dense_replace_may_be_left_to_the_list() -> None:
    assert ModelConfig.from_dict(published(first_k_dense_replace=...)).first_k_dense_replace == 1


def test_older_and_looser_forms_are_read() -> None:
    config = ModelConfig.from_dict(
        published(
            rope_parameters=...,
            rope_theta=10000,
            rope_scaling=None,
            eos_token_id=7,
            pad_token_id=None,
            dtype=...,
            torch_dtype="float32",
            scoring_func=...,
            num_nextn_predict_layers=...,
            head_dim=192,
            some_later_key={"any": "thing"},
        )
    )
    assert (config.rope_theta, config.eos_token_id, config.pad_token_id) == (10000.0, (7,), None)
    assert (config.dtype, config.num_nextn_predict_layers) == ("float32", 0)


def test_latent_norm_eps_is_a_parameter_that_is_not_published() -> None:
    config = replace(ModelConfig.load("tiny"), latent_norm_eps=1e-6)
    assert "latent_norm_eps" not in config.to_published_dict()
    with pytest.raises(ConfigError, match=r"latent_norm_eps is 0\.0: expected a positive number"):
        replace(config, latent_norm_eps=0.0)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"hidden_size": ...}, "hidden_size is missing: expected a positive integer"),
        ({"hidden_size": "128"}, "hidden_size is '128': expected a positive integer"),
        ({"hidden_size": True}, "hidden_size is True: expected a positive integer"),
        ({"hidden_size": 0}, "hidden_size is 0: expected a positive integer"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan: expected a positive number"),
        ({"norm_topk_prob": 1}, "norm_topk_prob is 1: expected true or false"),
        ({"dtype": "float16"}, "dtype is 'float16': expected 'bfloat16' or 'float32'"),
        (
            {"qk_head_dim": 40},
            "qk_head_dim is 40: expected qk_nope_head_dim + qk_rope_head_dim = 24 + 8",
        ),
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2: expected num_attention_heads = 4"),
        (
            {"qk_rope_head_dim": 7, "qk_head_dim": 31},
            "qk_rope_head_dim is 7: expected an even number: RoPE turns pairs",
        ),
        ({"index_head_dim": 4}, "index_head_dim is 4: expected at least qk_rope_head_dim = 8"),
        (
            {"num_experts_per_tok": 17},
            "num_experts_per_tok is 17: expected at most the experts of topk_group = 1 of "
            "n_group = 1 groups, of 16 experts in all",
        ),
        ({"n_group": 3}, "n_group is 3: expected a divisor of n_routed_experts = 16"),
        (
            {"n_group": 16, "topk_group": 4},
            "n_group is 16: expected at most half of n_routed_experts = 16: "
            "a group is scored by its best two",
        ),
        ({"topk_group": 2}, "topk_group is 2: expected at most n_group = 1"),
        (
            {"indexer_types": ["full"] * 3},
            "indexer_types is ['full', 'full', 'full'] (length 3): "
            "expected one entry for each of num_hidden_layers = 4",
        ),
        (
            {"indexer_types": ..., "index_topk_pattern": "SFFF"},
            "indexer_types is ['shared', 'full', 'full', 'full'] (length 4): "
            "expected 'full' first: the first layer has no earlier choice to share",
        ),
        (
            {"mlp_layer_types": ["dense", "moe", "moe", "moe"]},
            "mlp_layer_types is ['dense', 'moe', 'moe', 'moe'] (length 4): "
            "expected a list of 'dense' and 'sparse'",
        ),
        ({"num_nextn_predict_layers": 3}, "num_nextn_predict_layers is 3: expected 0 or 1"),
        (
            {"eos_token_id": [1, 512]},
            "eos_token_id is [1, 512] (length 2): expected ids below vocab_size = 512",
        ),
        ({"pad_token_id": 512}, "pad_token_id is 512: expected an id below vocab_size = 512"),
        ({"model_type": "glm5_next"}, "model_type is 'glm5_next': expected 'glm_moe_dsa'"),
        ({"model_type": ...}, "model_type is missing: expected 'glm_moe_dsa'"),
        ({"scoring_func": "softmax"}, "scoring_func is 'softmax': expected 'sigmoid'"),
        ({"topk_method": "greedy"}, "topk_method is 'greedy': expected 'noaux_tc'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu': expected 'silu'"),
        ({"attention_bias": True}, "attention_bias is True: expected False"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True: expected False"),
        (
            {"rope_scaling": {"type": "yarn"}},
            "rope_scaling.rope_type is 'yarn': expected 'default'",
        ),
        ({"rope_parameters": {}}, "rope_theta is missing: expected a positive number"),
    ],
)
def test_one_wrong_value_gives_one_line(changes: dict[str, Any], line: str) -> None:
    assert problems(**changes) == (line,)


def test_all_problems_are_reported_at_once() -> None:
    found = problems(
        vocab_size=..., qk_head_dim=48, n_group=3, hidden_act="gelu", num_hidden_layers="four"
    )
    assert [line.split()[0] for line in found] == [
        "hidden_act",
        "vocab_size",
        "num_hidden_layers",
        "qk_head_dim",
        "n_group",
    ]


def test_a_file_that_is_not_a_configuration_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(ConfigError, match=r"config\.json: 1 problem\n.*glm5, glm5_2, mid, tiny"):
        ModelConfig.load(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json: 1 problem\n  not JSON"):
        ModelConfig.load(path)
    path.write_text("[]")
    with pytest.raises(ConfigError, match=r"config\.json: 1 problem\n.*expected a JSON object"):
        ModelConfig.load(path)
