"""The exact profile on ONNX Runtime: the bytes of the definitions."""

import pytest
import torch
from onnx_calls import COMPOSITES, KINDS, OPS_OF, WILD, differences, runtime, small_calls
from wild_calls import Wild

from glm5_hal import Numerics, WeightRole
from glm5_hal.conformance.call import Call, Loaded, WeightValue, answer
from glm5_hal.conformance.reference_backend import reference_runtime
from glm5_hal.errors import ContractError

DEFINITION = reference_runtime(Numerics.EXACT)
EXACT = runtime(Numerics.EXACT)


def check(call: Call) -> None:
    """The backend answers with the definition's bytes."""
    assert not differences(answer(DEFINITION, call), answer(EXACT, call)), call.op


@pytest.mark.parametrize("op", [*OPS_OF[Numerics.EXACT], *COMPOSITES])
def test_every_op_gives_the_bytes_of_its_definition(op: str) -> None:
    for call in small_calls(op, *KINDS):
        check(call)


@pytest.mark.parametrize("op", WILD)
def test_any_bits_give_the_bytes_of_the_definition(op: str) -> None:
    for seed in range(8 if op in ("latent_attention", "muon_orthogonalize") else 20):
        check(Wild(seed).call(op))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [4096, 131071])
def test_long_sums_of_the_largest_digits(length: int, dtype: torch.dtype) -> None:
    x = torch.tensor([[1.0], [-1.0]]).expand(2, length).to(dtype)
    w = WeightValue(WeightRole.LINEAR, torch.full((2, length), 1.9921875).to(dtype))
    check(Call("linear", {"x": x, "w": w, "out_dtype": torch.float32}))


def test_a_longer_sum_is_refused() -> None:
    w = WeightValue(WeightRole.LINEAR, torch.ones(1, 131072))
    with pytest.raises(ContractError, match="131,072 products"):
        answer(EXACT, Call("linear", {"x": torch.ones(1, 131072), "w": w}))


@pytest.mark.parametrize("op", ["row_exponents", "linear_limbs"])
def test_a_rank_without_columns(op: str) -> None:
    from glm5_hal.conformance.call import ShardValue

    w = torch.ones(3, 8)
    arguments = {"x": torch.ones(2, 0)}
    if op == "linear_limbs":
        arguments |= {"w": ShardValue(w, 4, 4), "exponents": torch.ones(2, dtype=torch.int32)}
    check(Call(op, arguments))


def test_the_number_of_threads_changes_no_byte() -> None:
    for op in ("linear", "latent_attention", "moe_experts"):
        call = small_calls(op)[0]
        alone = answer(EXACT, call)
        torch.set_num_threads(2)
        assert not differences(alone, answer(EXACT, call))
        torch.set_num_threads(1)


def test_strides_and_addresses_change_no_byte() -> None:
    call = next(call for call in small_calls("rope") if call.tokens > 1)
    x = call.arguments["x"]
    wide = torch.zeros(*x.shape[:2], x.shape[2] + 3, dtype=x.dtype)
    wide[..., 3:] = x
    loaded = Loaded.on(EXACT, call)
    loaded.arguments["x"] = wide[..., 3:]
    assert not differences(answer(EXACT, call), loaded.answer())


def test_blocks_of_tokens_change_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [small_calls(op)[1] for op in ("latent_attention", "index_scores")]
    whole = [answer(EXACT, call) for call in calls]
    monkeypatch.setattr("glm5_hal.backends.onnxruntime.backend._BLOCK", 1)
    for call, wanted in zip(calls, whole, strict=True):
        assert not differences(wanted, answer(EXACT, call))
