"""The peer of every op computes the op: held against the references, or it would be no peer."""

import pytest
import torch
from torch import Tensor

from glm5_hal.conformance.bench.cases import OpCase
from glm5_hal.conformance.bench.plain_torch import EXPRESSIONS, WITHOUT, plain_runtime
from glm5_hal.conformance.call import Loaded
from glm5_hal.conformance.shapes import SHAPES
from glm5_hal.conformance.subjects import Variant
from glm5_hal.contract import OPS

AS_SETS = {"topk": -1, "dsa_select": -1}
"""Which are chosen is compared, in what order is not."""
EXACT_ONLY = ("linear_limbs", *WITHOUT)
ROUGH = {"muon_orthogonalize": 0.1, "moe_combine": 1e-5}
"""Newton-Schulz is done in bfloat16, as in its write-up."""

CALLS = [
    Variant(op, shape) for op in OPS if op not in EXACT_ONLY for shape in SHAPES[op] if shape.quick
]


@pytest.mark.parametrize("variant", CALLS, ids=lambda v: f"{v.op}/{v.label}")
def test_against_the_reference(variant: Variant) -> None:
    call = variant.call()
    mine = Loaded.on(plain_runtime(), call).answer()
    for found, wanted in zip(mine, call.reference(), strict=True):
        if variant.op in AS_SETS:
            assert torch.equal(found.sort(dim=1).values, wanted.sort(dim=1).values)
        elif variant.op == "moe_route":
            break  # below: ids in any order, with their weights
        else:
            assert close(found, wanted, ROUGH.get(variant.op, 2e-4)), variant
    if variant.op == "moe_route":
        order = mine[0].argsort(dim=1)
        ids, weights = call.reference()
        assert torch.equal(mine[0].gather(1, order), ids)
        assert close(mine[1].gather(1, order), weights, 1e-5)


def close(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    return torch.allclose(
        found.double(), wanted.double(), rtol=tolerance, atol=tolerance, equal_nan=True
    )


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_further_expressions_of_topk(name: str) -> None:
    call = OpCase("topk", {"T": 5, "S": 300, "k": 33}).call("bf16")
    found = EXPRESSIONS[name](**call.arguments)
    assert torch.equal(found.sort(dim=1).values.int(), call.reference()[0])


def test_a_stable_sort_takes_the_lowest_of_equals() -> None:
    scores = torch.zeros(1, 50)
    found = EXPRESSIONS["torch.sort"](scores, torch.tensor([50]), 7)
    assert found.tolist() == [[0, 1, 2, 3, 4, 5, 6]]


def test_a_share_of_a_product_is_a_product() -> None:
    call = Variant("linear_limbs", SHAPES["linear_limbs"][0]).call()
    loaded = Loaded.on(plain_runtime(), call)
    x, shard = call.arguments["x"], call.arguments["w"]
    wanted = x @ shard.tensor[:, shard.start : shard.stop].T
    found = loaded.runtime.backend.linear_limbs(**loaded.arguments)
    assert close(found, wanted, 1e-5)


def test_bf16_stays_bf16() -> None:
    for op in ("linear", "rope", "swiglu", "mla", "moe_experts", "rms_norm"):
        variant = Variant(op, next(s for s in SHAPES[op] if s.quick), dtype="bf16")
        assert Loaded.on(plain_runtime(), variant.call()).answer()[0].dtype == torch.bfloat16
