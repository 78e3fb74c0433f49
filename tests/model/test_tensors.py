"""The table of published names, counted and probed against the published checkpoints."""

import pytest

from glm5_hal.model.config import ModelConfig
from glm5_hal.model.tensors import (
    TensorSpec,
    expected_tensors,
    layer_tensors,
    mtp_duplicates,
    mtp_tensors,
)


def table(name: str, mtp: bool = True) -> dict[str, TensorSpec]:
    return {spec.name: spec for spec in expected_tensors(ModelConfig.load(name), mtp)}


@pytest.mark.parametrize(
    ("name", "plain", "quantised"), [("glm5", 59870, 119028), ("glm5_2", None, 118629)]
)
def test_the_published_checkpoints_have_this_many_tensors(
    name: str, plain: int | None, quantised: int
) -> None:
    specs = list(expected_tensors(ModelConfig.load(name), mtp=True))
    assert len({spec.name for spec in specs}) == len(specs)
    assert plain in (None, len(specs))
    assert len(specs) + sum(spec.kind == "matrix" for spec in specs) == quantised


@pytest.mark.parametrize(
    ("name", "shape", "scale"),
    [
        ("0.self_attn.q_a_proj", (2048, 6144), (16, 48)),
        ("3.self_attn.q_b_proj", (16384, 2048), (128, 16)),
        ("3.self_attn.kv_a_proj_with_mqa", (576, 6144), (5, 48)),
        ("3.self_attn.kv_b_proj", (28672, 512), (224, 4)),
        ("3.self_attn.o_proj", (6144, 16384), (48, 128)),
        ("77.self_attn.indexer.wq_b", (4096, 2048), (32, 16)),
        ("77.self_attn.indexer.wk", (128, 6144), (1, 48)),
        ("2.mlp.gate_proj", (12288, 6144), (96, 48)),
        ("3.mlp.experts.255.up_proj", (2048, 6144), (16, 48)),
        ("78.mlp.shared_experts.down_proj", (6144, 2048), (48, 16)),
    ],
)
def test_glm5_matrices_and_their_scales(
    name: str, shape: tuple[int, int], scale: tuple[int, int]
) -> None:
    spec = table("glm5")[f"model.layers.{name}.weight"]
    assert (spec.kind, spec.shape) == ("matrix", shape)
    assert spec.scale.name == f"model.layers.{name}.weight_scale_inv"
    assert (spec.scale.kind, spec.scale.shape) == ("fp32", scale)


def test_what_is_never_quantised() -> None:
    specs = table("glm5")
    assert specs["model.layers.78.eh_proj.weight"].shape == (6144, 12288)
    assert {spec.name.split(".")[-2] for spec in specs.values() if spec.kind == "plain"} == {
        *("embed_tokens", "lm_head", "norm", "input_layernorm", "post_attention_layernorm"),
        *("q_a_layernorm", "kv_a_layernorm", "k_norm", "weights_proj", "gate"),
        *("eh_proj", "enorm", "hnorm"),
    }
    fp32 = {spec.name.split(".")[-1] for spec in specs.values() if spec.kind == "fp32"}
    assert fp32 == {"e_score_correction_bias"}


def test_shared_layers_have_no_indexer() -> None:
    config = ModelConfig.load("glm5_2")
    with_indexer = {
        layer
        for layer in range(config.mtp_layer + 1)
        if any(spec.component == "indexer" for spec in layer_tensors(config, layer))
    }
    assert with_indexer == {0, 1, *range(2, 78, 4), 78}


def test_the_mtp_layer_stands_apart() -> None:
    config = ModelConfig.load("tiny")
    mtp = {spec.name for spec in mtp_tensors(config)}
    assert table("tiny").keys() - table("tiny", mtp=False).keys() == mtp
    assert all(name.startswith("model.layers.4.") for name in mtp)
    assert {spec.name: spec.shape for spec in mtp_duplicates(config)} == {
        "model.layers.4.embed_tokens.weight": (512, 128),
        "model.layers.4.shared_head.head.weight": (512, 128),
    }
