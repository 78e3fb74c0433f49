"""Random checkpoints: frozen bits, numbers as stated, nothing half-written."""

import json
from pathlib import Path

import pytest
import torch

from glm5_hal.model.checkpoint import Checkpoint, Storage, dequantize
from glm5_hal.model.config import ModelConfig
from glm5_hal.model.make_checkpoint import (
    content_digest,
    make_checkpoint,
    quantize,
    random_tensor,
)
from glm5_hal.model.tensors import TensorSpec, expected_tensors

TINY = ModelConfig.load("tiny")
E4M3 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()


@pytest.mark.parametrize(
    ("dtype", "digest"),
    [
        ("bf16", "9d219585f7be51c22eeceec8be2b0205ac56321192710c2f75ea71a5a0f015a4"),
        ("fp32", "63980db168aeea181c09d7ff8f81e9147437436409698452d5e2607629de4d59"),
        ("fp8", "5d0cb814c57b58de6f8c749085635ec99642bd1f08deb60587d7225f90406f0f"),
    ],
)
def test_the_bits_of_tiny_are_frozen(tmp_path: Path, dtype: Storage, digest: str) -> None:
    make_checkpoint(TINY, tmp_path / "whole", seed=0, dtype=dtype)
    make_checkpoint(TINY, tmp_path / "sharded", seed=0, dtype=dtype, shard_bytes=300_000)
    assert content_digest(tmp_path / "whole") == digest
    assert content_digest(tmp_path / "sharded") == digest


def test_another_seed_is_another_checkpoint(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_checkpoint(TINY, tmp_path / str(seed), seed=seed, dtype="bf16")
    assert content_digest(tmp_path / "0") != content_digest(tmp_path / "1")


def test_shards_keep_to_their_size_and_the_index_finds_everything(tmp_path: Path) -> None:
    make_checkpoint(TINY, tmp_path / "new", seed=0, dtype="fp8", shard_bytes=300_000)
    index = json.loads((tmp_path / "new/model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert {file.name for file in (tmp_path / "new").glob("*.safetensors")} == set(files)
    with Checkpoint.open(tmp_path / "new") as checkpoint:
        assert checkpoint.nbytes == index["metadata"]["total_size"]
        for file in files:
            held = [tensor.nbytes for tensor in checkpoint.tensors.values() if tensor.file == file]
            assert sum(held) <= 300_000
        for name, file in index["weight_map"].items():
            assert index["weight_map"].get(f"{name}_scale_inv", file) == file


def test_the_mtp_layer_can_be_left_out_and_changes_nothing_else(tmp_path: Path) -> None:
    make_checkpoint(TINY, tmp_path / "with", seed=0, dtype="bf16")
    make_checkpoint(TINY, tmp_path / "without", seed=0, dtype="bf16", mtp=False)
    with (
        Checkpoint.open(tmp_path / "with") as whole,
        Checkpoint.open(tmp_path / "without") as part,
    ):
        assert (whole.has_mtp, part.has_mtp) == (True, False)
        for name in part.tensors:
            assert torch.equal(whole.stored(name), part.stored(name))


def test_the_configuration_travels_with_the_weights(tmp_path: Path) -> None:
    make_checkpoint(TINY, tmp_path / "new", seed=0, dtype="fp8")
    assert ModelConfig.load(tmp_path / "new") == TINY
    published = json.loads((tmp_path / "new/config.json").read_text())
    quantization = published["quantization_config"]
    assert quantization["weight_block_size"] == [128, 128]
    plain = set(quantization["modules_to_not_convert"])
    assert {"lm_head", "model.embed_tokens", "model.layers.1.mlp.gate"} < plain
    assert {"model.layers.0.self_attn.indexer.weights_proj", "model.layers.4.eh_proj"} < plain
    generation = json.loads((tmp_path / "new/generation_config.json").read_text())
    assert generation == {"eos_token_id": [509, 510, 511], "pad_token_id": 509}
    make_checkpoint(TINY, tmp_path / "fp32", seed=0, dtype="fp32")
    assert ModelConfig.load(tmp_path / "fp32").dtype == "float32"


def test_progress_counts_bytes_up_to_all_of_them(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    make_checkpoint(
        TINY, tmp_path / "new", seed=0, dtype="fp8", progress=lambda *call: calls.append(call)
    )
    with Checkpoint.open(tmp_path / "new") as checkpoint:
        assert {total for _, total in calls} == {checkpoint.nbytes}
    done = [done for done, _ in calls]
    assert done == sorted(set(done))
    assert done[-1] == calls[-1][1]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_checkpoint(
            TINY, tmp_path / "new", seed=0, dtype="bf16", shard_bytes=500_000, progress=interrupt
        )
    assert list(tmp_path.iterdir()) == []


def test_only_an_empty_directory_is_written_to(tmp_path: Path) -> None:
    directory = tmp_path / "mine"
    directory.mkdir()
    make_checkpoint(TINY, directory, seed=0, dtype="bf16")
    with pytest.raises(FileExistsError, match="mine is not empty"):
        make_checkpoint(TINY, directory, seed=1, dtype="bf16")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_activations_stay_near_one() -> None:
    specs = {spec.name: spec for spec in expected_tensors(TINY, mtp=True)}

    def drawn(name: str) -> torch.Tensor:
        return random_tensor(specs[name], seed=0).double()

    assert drawn("model.embed_tokens.weight").std() == pytest.approx(1, rel=0.02)
    assert drawn("model.layers.0.mlp.down_proj.weight").std() == pytest.approx(256**-0.5, rel=0.02)
    assert drawn("model.norm.weight").mean() == pytest.approx(1, abs=0.03)
    assert drawn("model.norm.weight").std() == pytest.approx(0.1, rel=0.2)
    assert drawn("model.layers.1.mlp.gate.e_score_correction_bias").abs().max() < 0.35
    assert drawn("model.layers.0.self_attn.indexer.k_norm.bias").abs().max() < 0.35


def test_bf16_is_the_fp32_value_rounded_once(tmp_path: Path) -> None:
    make_checkpoint(TINY, tmp_path / "new", seed=3, dtype="bf16")
    with Checkpoint.open(tmp_path / "new") as checkpoint:
        for spec in expected_tensors(TINY, mtp=True):
            stored = torch.float32 if spec.kind == "fp32" else torch.bfloat16
            assert torch.equal(checkpoint.stored(spec.name), random_tensor(spec, 3).to(stored))


def test_quantised_elements_are_the_nearest_of_all_256_codes() -> None:
    weight = random_tensor(TensorSpec("any", (150, 140), "matrix", "mla"), seed=0)
    quantised, scale = quantize(weight)
    assert scale.shape == (2, 2)
    for rows in (slice(0, 128), slice(128, 150)):
        for columns in (slice(0, 128), slice(128, 140)):
            block, factor = weight[rows, columns], scale[rows.start // 128, columns.start // 128]
            assert factor == block.abs().max() / 448
            quotient = (block / factor).unsqueeze(-1).double()
            distance = (quotient - E4M3[~E4M3.isnan()].double()).abs().amin(-1)
            chosen = quantised[rows, columns].double()
            assert torch.equal((quotient.squeeze(-1) - chosen).abs(), distance)
    assert dequantize(quantised, scale).sub(weight).abs().max() < weight.abs().max() / 16


def test_a_block_of_zeros_has_scale_one() -> None:
    weight = torch.zeros(130, 128)
    weight[129, 5] = 3.0
    quantised, scale = quantize(weight)
    assert scale[0, 0] == 1
    assert torch.equal(dequantize(quantised, scale), weight)
