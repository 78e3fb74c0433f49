"""What loading makes of the stored tensors."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from glm5_hal import HalError, Numerics, Runtime, WeightRole
from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.model.checkpoint import Checkpoint, Storage, dequantize
from glm5_hal.model.config import ModelConfig
from glm5_hal.model.generate import sequence_logits
from glm5_hal.model.glm5 import GLM5
from glm5_hal.model.load import load_model
from glm5_hal.model.tensors import expected_tensors
from glm5_hal.model.weights import Mlp, Moe
from glm5_hal.plan import make_plan
from glm5_hal.rope_table import rope_table

NewCheckpoint = Callable[..., Path]


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    """Of a class that keeps weights as they come."""
    return Runtime(make_plan(CpuBackend, 0, Numerics.FAST), CpuBackend())


@pytest.fixture(scope="module", params=["fp8", "bf16", "fp32"])
def storage(request: pytest.FixtureRequest) -> Storage:
    chosen: Storage = request.param
    return chosen


@pytest.fixture(scope="module")
def path(storage: Storage, new_checkpoint: NewCheckpoint) -> Path:
    return new_checkpoint(storage=storage, seed=4)


@pytest.fixture(scope="module")
def model(path: Path, runtime: Runtime) -> GLM5:
    return load_model(path, runtime)


@pytest.fixture(scope="module")
def stored(path: Path) -> dict[str, Tensor]:
    """Every tensor of the checkpoint in float32, read without the reader under test."""
    tensors = load_file(path / "model.safetensors")
    return {
        name: dequantize(tensor, tensors[f"{name}_scale_inv"])
        if tensor.dtype is torch.float8_e4m3fn
        else tensor.float()
        for name, tensor in tensors.items()
    }


def test_the_activation_dtype_is_the_stored_one_or_bf16(storage: Storage, model: GLM5) -> None:
    assert model.dtype is (torch.float32 if storage == "fp32" else torch.bfloat16)
    assert model.weights.embedding.dtype is model.dtype
    assert model.weights.head.dtype is model.dtype
    assert all(row.isfinite().all() for row in sequence_logits(model, [[1, 2, 3]]))


def test_kv_b_is_cut_by_head_and_its_key_part_transposed(
    model: GLM5, stored: dict[str, Tensor]
) -> None:
    for layer, weights in enumerate(model.weights.layers):
        kv_b = stored[f"model.layers.{layer}.self_attn.kv_b_proj.weight"].to(model.dtype)
        attention = weights.attention
        assert attention.w_uk.role is attention.w_uv.role is WeightRole.HEAD_LINEAR
        assert attention.w_uk.shape == (4, 32, 24)
        assert attention.w_uv.shape == (4, 32, 32)
        for head in range(4):
            rows = kv_b[head * 56 : (head + 1) * 56]  # 24 rows of keys, then 32 of values
            assert torch.equal(attention.w_uk.tensor[head].T, rows[:24])
            assert torch.equal(attention.w_uv.tensor[head], rows[24:])


def test_gate_rows_stand_before_up_rows(model: GLM5, stored: dict[str, Tensor]) -> None:
    def expected(prefix: str) -> Tensor:
        gate, up = (stored[f"{prefix}{part}_proj.weight"] for part in ("gate", "up"))
        return torch.cat((gate, up)).to(model.dtype)

    dense, sparse = model.weights.layers[0].mlp, model.weights.layers[2].mlp
    assert isinstance(dense, Mlp)
    assert isinstance(sparse, Moe)
    assert torch.equal(dense.gate_up.tensor, expected("model.layers.0.mlp."))
    prefix = "model.layers.2.mlp."
    assert torch.equal(sparse.shared.gate_up.tensor, expected(f"{prefix}shared_experts."))
    for expert in range(16):
        name = f"{prefix}experts.{expert}."
        assert torch.equal(sparse.gate_up.tensor[expert], expected(name))
        down = stored[f"{name}down_proj.weight"].to(model.dtype)
        assert torch.equal(sparse.down.tensor[expert], down)


def test_norms_and_what_chooses_are_kept_in_fp32(model: GLM5, stored: dict[str, Tensor]) -> None:
    layer = model.weights.layers[1]
    indexer, moe = layer.attention.indexer, layer.mlp
    assert indexer is not None
    assert isinstance(moe, Moe)
    prefix = "model.layers.1."
    for weight, name in {
        layer.input_norm: "input_layernorm.weight",
        layer.attention.kv_a_norm: "self_attn.kv_a_layernorm.weight",
        indexer.k_norm_bias: "self_attn.indexer.k_norm.bias",
        indexer.weights: "self_attn.indexer.weights_proj.weight",
        moe.router: "mlp.gate.weight",
        moe.bias: "mlp.gate.e_score_correction_bias",
    }.items():
        assert weight.dtype is torch.float32
        assert torch.equal(weight.tensor, stored[prefix + name])


def test_the_mtp_layer(model: GLM5, stored: dict[str, Tensor]) -> None:
    mtp = model.weights.mtp
    assert mtp is not None
    assert mtp.layer.attention.indexer is not None
    for weight, name in {
        mtp.token_norm: "enorm",
        mtp.hidden_norm: "hnorm",
        mtp.head_norm: "shared_head.norm",
        mtp.join: "eh_proj",
        mtp.layer.attention.out: "self_attn.o_proj",
    }.items():
        expected = stored[f"model.layers.4.{name}.weight"].to(weight.dtype)
        assert torch.equal(weight.tensor, expected)


def test_without_an_mtp_layer(new_checkpoint: NewCheckpoint, runtime: Runtime) -> None:
    for path in (new_checkpoint(mtp=False), new_checkpoint(num_nextn_predict_layers=0)):
        assert load_model(path, runtime).weights.mtp is None


def test_an_mtp_layer_may_be_left_where_it_is(tiny_path: Path, runtime: Runtime) -> None:
    calls: list[tuple[int, int]] = []
    model = load_model(tiny_path, runtime, mtp=False, progress=lambda *call: calls.append(call))
    assert model.weights.mtp is None
    assert calls[-1][0] == calls[-1][1]


def test_a_shared_layer_has_no_indexer(new_checkpoint: NewCheckpoint, runtime: Runtime) -> None:
    types = ["full", "shared", "full", "shared"]
    model = load_model(new_checkpoint(indexer_types=types), runtime)
    found = [layer.attention.indexer is not None for layer in model.weights.layers]
    assert found == [True, False, True, False]


def test_every_tensor_is_read_once_and_progress_reaches_the_end(
    path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: Counter[str] = Counter()
    read = Checkpoint.read

    def counted(self: Checkpoint, name: str, dtype: torch.dtype) -> Tensor:
        names[name] += 1
        return read(self, name, dtype)

    monkeypatch.setattr(Checkpoint, "read", counted)
    calls: list[tuple[int, int]] = []
    load_model(path, runtime, progress=lambda *call: calls.append(call))
    config = ModelConfig.load("tiny")
    assert names == Counter(spec.name for spec in expected_tensors(config, mtp=True))
    size = sum(tensor.nbytes for tensor in load_file(path / "model.safetensors").values())
    assert {total for _, total in calls} == {size}
    done = [done for done, _ in calls]
    assert done == sorted(set(done))
    assert len(done) == len(names)
    assert done[-1] == size


def test_copies_of_embedding_and_head_in_the_mtp_layer_are_passed_by(
    new_checkpoint: NewCheckpoint, runtime: Runtime
) -> None:
    def duplicate(tensors: dict[str, Tensor]) -> None:
        for name in ("embed_tokens", "shared_head.head"):
            tensors[f"model.layers.4.{name}.weight"] = torch.zeros(512, 128)

    calls: list[tuple[int, int]] = []
    model = load_model(
        new_checkpoint(edit=duplicate), runtime, progress=lambda *call: calls.append(call)
    )
    assert calls[-1][0] == calls[-1][1]
    assert model.weights.embedding.tensor.any()


def test_fp8_weights_are_the_numbers_they_stand_for(
    new_checkpoint: NewCheckpoint, tmp_path: Path, runtime: Runtime
) -> None:
    """An FP8 checkpoint, and the bf16 checkpoint of its values, are one model."""
    path = new_checkpoint(storage="fp8")
    (tmp_path / "config.json").write_bytes((path / "config.json").read_bytes())
    tensors = load_file(path / "model.safetensors")
    wide = {
        name: dequantize(tensor, tensors[f"{name}_scale_inv"]).bfloat16()
        if tensor.dtype is torch.float8_e4m3fn
        else tensor
        for name, tensor in tensors.items()
        if not name.endswith("_scale_inv")
    }
    save_file(wide, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ids = [list(range(40))]
    fp8, bf16 = (sequence_logits(load_model(p, runtime), ids)[0] for p in (path, tmp_path))
    assert torch.equal(fp8, bf16)


def test_another_dtype_may_be_asked_for(
    new_checkpoint: NewCheckpoint, runtime: Runtime, tiny_path: Path
) -> None:
    wide = load_model(new_checkpoint(storage="fp8"), runtime, dtype=torch.float32)
    narrow = load_model(tiny_path, runtime, dtype=torch.bfloat16)
    assert (wide.dtype, narrow.dtype) == (torch.float32, torch.bfloat16)
    for model in (wide, narrow):
        assert model.weights.layers[1].attention.q_b.dtype is model.dtype
        assert sequence_logits(model, [[5, 6]])[0].isfinite().all()


def test_the_rope_table_has_the_rows_that_are_asked_for(tiny_path: Path, runtime: Runtime) -> None:
    for positions, rows in ((None, 4096), (100, 100), (1 << 20, 4096)):
        table = load_model(tiny_path, runtime, positions=positions).weights.rope
        assert torch.equal(table.tensor, rope_table(1e6, 8, rows))
        assert table.role is WeightRole.ROPE_TABLE


def test_no_more_positions_than_were_asked_for(tiny_path: Path, runtime: Runtime) -> None:
    model = load_model(tiny_path, runtime, positions=100)
    assert len(sequence_logits(model, [[1] * 100])[0]) == 100
    with pytest.raises(HalError, match="longest sequence"):
        sequence_logits(model, [[1] * 101])
