"""Opening checkpoints: what is accepted, what is read, and how each defect is reported."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from glm5_hal.model.checkpoint import Checkpoint, CheckpointError, Storage, dequantize
from glm5_hal.model.config import ConfigError, ModelConfig
from glm5_hal.model.make_checkpoint import make_checkpoint, random_tensor
from glm5_hal.model.tensors import TensorSpec, expected_tensors

Tensors = dict[str, Tensor]
NORM = "model.norm.weight"
HEAD = "lm_head.weight"
MATRIX = "model.layers.0.self_attn.o_proj.weight"
MTP = "model.layers.4."


def make(path: Path, dtype: Storage = "bf16", shard_bytes: int = 1 << 30) -> Path:
    config = ModelConfig.load("tiny")
    make_checkpoint(config, path, seed=0, dtype=dtype, shard_bytes=shard_bytes)
    return path


def edit(path: Path, change: Callable[[Tensors], object], file: str = "model.safetensors") -> None:
    tensors = load_file(path / file)
    change(tensors)
    save_file(tensors, path / file)


def edit_index(path: Path, change: Callable[[dict[str, str]], object]) -> None:
    index = json.loads((path / "model.safetensors.index.json").read_text())
    change(index["weight_map"])
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def findings(path: Path) -> dict[str, tuple[str, ...]]:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(path)
    return caught.value.findings


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return make(tmp_path / "plain")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """Four shards, as the tests count on."""
    path = make(tmp_path / "sharded", shard_bytes=1_300_000)
    assert len(list(path.glob("*.safetensors"))) == 4
    return path


@pytest.mark.parametrize(
    ("dtype", "default", "nbytes"),
    [
        ("bf16", torch.bfloat16, 4_451_328),
        ("fp32", torch.float32, 8_902_400),
        ("fp8", torch.bfloat16, 2_406_376),
    ],
)
def test_a_whole_checkpoint_opens(
    tmp_path: Path, dtype: Storage, default: torch.dtype, nbytes: int
) -> None:
    with Checkpoint.open(make(tmp_path / "new", dtype)) as checkpoint:
        assert checkpoint.storage == dtype
        assert checkpoint.default_dtype is default
        assert checkpoint.nbytes == nbytes
        assert checkpoint.has_mtp
        assert checkpoint.config.hidden_size == 128


def test_reading_from_shards_is_reading_from_one_file(plain: Path, sharded: Path) -> None:
    with Checkpoint.open(plain) as one, Checkpoint.open(sharded) as many:
        assert one.tensors.keys() == many.tensors.keys()
        for name in one.tensors:
            assert torch.equal(one.read(name, torch.float32), many.read(name, torch.float32))


def test_a_read_tensor_is_rounded_once_and_owns_its_memory(tmp_path: Path) -> None:
    path = make(tmp_path / "new", "fp32")
    [spec] = [s for s in expected_tensors(ModelConfig.load("tiny"), mtp=False) if s.name == MATRIX]
    with Checkpoint.open(path) as checkpoint:
        weight = checkpoint.read(MATRIX, torch.float32)
        rounded = checkpoint.read(MATRIX, torch.bfloat16)
        weight.zero_()
        again = checkpoint.read(MATRIX, torch.float32)
    assert torch.equal(again, random_tensor(spec, seed=0))
    assert torch.equal(rounded, again.bfloat16())


def test_a_quantised_matrix_is_fp8_times_the_scale_of_its_block(tmp_path: Path) -> None:
    name = (
        "model.layers.0.self_attn.kv_b_proj.weight"  # [224, 32]: two blocks, the last one partial
    )
    with Checkpoint.open(make(tmp_path / "new", "fp8")) as checkpoint:
        quantised, scale = checkpoint.stored(name), checkpoint.stored(f"{name}_scale_inv")
        expected = torch.cat(
            [quantised[:128].float() * scale[0, 0], quantised[128:].float() * scale[1, 0]]
        )
        assert torch.equal(checkpoint.read(name, torch.float32), expected)
        assert torch.equal(checkpoint.read(name, torch.bfloat16), expected.bfloat16())
        assert torch.equal(checkpoint.read(f"{name}_scale_inv", torch.float32), scale)


def test_blocks_have_their_own_scale_in_both_directions() -> None:
    scale = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    weight = dequantize(torch.ones(130, 129).to(torch.float8_e4m3fn), scale)
    assert weight[:128, :128].eq(1.0).all()
    assert weight[:128, 128:].eq(2.0).all()
    assert weight[128:, :128].eq(4.0).all()
    assert weight[128:, 128:].eq(8.0).all()


def test_the_mtp_layer_may_be_absent(plain: Path) -> None:
    edit(plain, lambda t: [t.pop(name) for name in list(t) if name.startswith(MTP)])
    with Checkpoint.open(plain) as checkpoint:
        assert not checkpoint.has_mtp
        assert checkpoint.config.num_nextn_predict_layers == 1


def test_the_mtp_layer_may_not_be_there_in_part(plain: Path) -> None:
    edit(plain, lambda t: [t.pop(MTP + name) for name in ("eh_proj.weight", "enorm.weight")])
    assert findings(plain) == {
        "missing tensors of the MTP layer, of which others are there": (
            f"{MTP}enorm.weight [128]",
            f"{MTP}eh_proj.weight [128, 256]",
        )
    }


def test_copies_of_embedding_and_head_in_the_mtp_layer_are_checked_and_accepted(
    plain: Path,
) -> None:
    copies = {f"{MTP}embed_tokens.weight": HEAD, f"{MTP}shared_head.head.weight": HEAD}
    edit(plain, lambda t: t.update({copy: t[name].clone() for copy, name in copies.items()}))
    Checkpoint.open(plain).close()
    edit(plain, lambda t: t.update({f"{MTP}embed_tokens.weight": t[NORM].clone()}))
    assert findings(plain) == {
        "wrong shapes": (f"{MTP}embed_tokens.weight: [128], expected [512, 128]",)
    }


def test_small_tensors_of_a_bf16_checkpoint_may_be_fp32(plain: Path) -> None:
    name = "model.layers.0.self_attn.indexer.k_norm.bias"
    edit(plain, lambda t: t.update({name: t[name].float()}))
    with Checkpoint.open(plain) as checkpoint:
        assert checkpoint.storage == "bf16"
        assert checkpoint.read(name, torch.bfloat16).dtype is torch.bfloat16


def test_all_defects_are_reported_in_one_error(plain: Path) -> None:
    def damage(tensors: Tensors) -> None:
        del tensors[NORM]
        tensors["model.extra.weight"] = torch.zeros(3, dtype=torch.bfloat16)
        tensors[HEAD] = tensors[HEAD][:, :64].contiguous()
        tensors[MATRIX] = tensors[MATRIX].half()
        bias = "model.layers.1.mlp.gate.e_score_correction_bias"
        tensors[bias] = tensors[bias].bfloat16()

    edit(plain, damage)
    assert findings(plain) == {
        "missing tensors": (f"{NORM} [128]",),
        "unexpected tensors": ("model.extra.weight [3] in model.safetensors",),
        "wrong shapes": (f"{HEAD}: [512, 64], expected [512, 128]",),
        "wrong dtypes in bf16 storage": (
            f"{MATRIX}: F16, expected BF16",
            "model.layers.1.mlp.gate.e_score_correction_bias: BF16, expected F32",
        ),
    }


def test_fp16_is_not_a_storage(plain: Path) -> None:
    edit(plain, lambda t: t.update({name: tensor.half() for name, tensor in t.items()}))
    [(sort, lines)] = findings(plain).items()
    assert sort == "wrong dtypes in bf16 storage"
    assert len(lines) == 292


def test_fp8_needs_every_scale_in_shape(tmp_path: Path) -> None:
    path = make(tmp_path / "new", "fp8")
    other = "model.layers.0.self_attn.q_b_proj.weight_scale_inv"
    edit(path, lambda t: t.pop(f"{MATRIX}_scale_inv"))
    edit(path, lambda t: t.update({other: torch.ones(2, 1)}))
    assert findings(path) == {
        "missing tensors": (f"{MATRIX}_scale_inv [1, 1]",),
        "wrong shapes": (f"{other}: [2, 1], expected [1, 1]",),
    }


@pytest.mark.parametrize("kept", [0, 5, 1000, 100_000])
def test_a_file_that_is_cut_short_is_named_with_its_size(plain: Path, kept: int) -> None:
    file = plain / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    [(sort, [line])] = findings(plain).items()
    assert sort == "damaged files"
    assert line.startswith(f"model.safetensors ({kept:,} bytes), cut short or corrupt: ")


def test_a_file_that_is_not_safetensors_is_never_run(plain: Path) -> None:
    torch.save({NORM: torch.ones(128)}, plain / "model.safetensors")
    assert list(findings(plain)) == ["damaged files"]


def test_an_absent_file_is_reported(plain: Path) -> None:
    (plain / "model.safetensors").unlink()
    assert findings(plain) == {"missing files": ("model.safetensors",)}


def test_absent_and_damaged_shards_do_not_make_their_tensors_missing(sharded: Path) -> None:
    first, second, third, _ = sorted(sharded.glob("*.safetensors"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    edit(sharded, lambda t: t.update(stray=torch.ones(1)), third.name)
    found = findings(sharded)
    assert found["missing files"] == (first.name,)
    assert len(found["damaged files"]) == 1
    assert found["unexpected tensors"] == (f"stray [1] in {third.name}",)
    assert found["index entries that disagree with the files"] == (
        f"stray: no file by the index, in fact {third.name}",
    )
    assert "missing tensors" not in found


def test_the_index_must_agree_with_the_shards(sharded: Path) -> None:
    first, *_, last = sorted(file.name for file in sharded.glob("*.safetensors"))

    def disagree(weight_map: dict[str, str]) -> None:
        weight_map["model.embed_tokens.weight"] = last
        weight_map["ghost"] = first

    edit_index(sharded, disagree)
    assert findings(sharded) == {
        "index entries that disagree with the files": (
            f"ghost: {first} by the index, in fact no file",
            f"model.embed_tokens.weight: {last} by the index, in fact {first}",
        )
    }


def test_a_tensor_may_be_stored_once(sharded: Path) -> None:
    first, *_, last = sorted(file.name for file in sharded.glob("*.safetensors"))
    name = "model.embed_tokens.weight"
    edit(sharded, lambda t: t.update({name: torch.zeros(512, 128, dtype=torch.bfloat16)}), last)
    assert findings(sharded)["tensors stored twice"] == (f"{name}: {first}, {last}",)


def test_the_index_cannot_reach_outside_the_directory(sharded: Path) -> None:
    edit_index(sharded, lambda weight_map: weight_map.update(ghost="../other.safetensors"))
    assert findings(sharded) == {"index entries that are not file names": ("../other.safetensors",)}


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}'])
def test_a_damaged_index_is_reported(sharded: Path, text: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(text)
    assert findings(sharded) == {
        "damaged files": ("model.safetensors.index.json: expected a JSON object with a weight_map",)
    }


def test_long_lists_are_kept_whole_and_shown_short(plain: Path) -> None:
    edit(plain, lambda t: [t.pop(name) for name in list(t) if ".experts." in name])
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(plain)
    missing = caught.value.findings["missing tensors"]
    assert len(missing) == 3 * 16 * 3
    assert "missing tensors: 144\n" in str(caught.value)
    assert missing[19] in str(caught.value)
    assert missing[20] not in str(caught.value)
    assert "and 124 more" in str(caught.value)


def test_a_wrong_config_is_reported_as_such(plain: Path) -> None:
    config = json.loads((plain / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps(config | {"qk_head_dim": 64}))
    with pytest.raises(ConfigError, match="qk_head_dim is 64"):
        Checkpoint.open(plain)


def test_a_config_of_another_size_is_seen_in_the_shapes(plain: Path) -> None:
    config = json.loads((plain / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps(config | {"v_head_dim": 16}))
    assert len(findings(plain)["wrong shapes"]) == 2 * 5


def test_an_unknown_name_and_a_closed_checkpoint_are_errors(plain: Path) -> None:
    with Checkpoint.open(plain) as checkpoint:
        kept = checkpoint.read(NORM, torch.float32)
        with pytest.raises(KeyError, match="nothing"):
            checkpoint.read("model.nothing", torch.float32)
    with pytest.raises(Exception, match="closed"):
        checkpoint.read(NORM, torch.float32)
    assert kept.mean() == pytest.approx(1, abs=0.1)


def test_the_scale_of_a_matrix_is_beside_it() -> None:
    spec = TensorSpec("a.weight", (129, 128), "matrix", "mla")
    assert (spec.scale.name, spec.scale.shape) == ("a.weight_scale_inv", (2, 1))
