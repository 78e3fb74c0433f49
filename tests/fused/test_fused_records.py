"""What the records of fused ops say of themselves."""

import inspect
from dataclasses import replace
from typing import Any

import fused_inputs as given
import pytest
import torch
from fused_vendors import FUNCTIONS, RECORDS, VENDORS

from glm5_hal import PagedContext
from glm5_hal.backends.torch_triton.fused import Fused, Library
from glm5_hal.contract import OPS
from glm5_hal.levels import Numerics

ARGUMENTS: dict[str, Any] = {
    "latent_attention": given.attention,
    "index_scores": given.index,
    "topk": lambda: given.scores(5),
    "moe_route": given.route,
    "grouped_linear": given.grouped,
    "swiglu": lambda: (given.randn(5, 24),),
}


@pytest.mark.parametrize(("vendor", "fused"), RECORDS)
def test_every_promise_of_the_op_is_spoken_of_once(vendor: str, fused: Fused) -> None:
    promised = {
        name
        for name, requirement in OPS[fused.op].requirements.items()
        if requirement.profile is not Numerics.EXACT
    }
    assert not fused.established.keys() & fused.open.keys()
    assert fused.established.keys() | fused.open.keys() == promised | {"RUN-1"}


@pytest.mark.parametrize(("vendor", "fused"), RECORDS)
def test_none_is_taken_unasked(vendor: str, fused: Fused) -> None:
    """Nothing of these libraries has run anywhere: something is open for each."""
    assert fused.open
    assert "/" in fused.source


@pytest.mark.parametrize(("vendor", "fused"), RECORDS)
def test_what_is_called_is_in_the_published_signature(vendor: str, fused: Fused) -> None:
    taken = inspect.signature(FUNCTIONS[vendor, fused.op]).parameters
    assert set(fused.parameters) <= set(taken)


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_vendor_has_one_record_an_op(vendor: str) -> None:
    ops = [fused.op for fused in VENDORS[vendor]]
    assert len(ops) == len(set(ops))


def _first(value: Any, rows: int) -> Any:
    """The value for the first tokens alone."""
    if isinstance(value, PagedContext):
        seen = value.lengths[:rows]
        return replace(
            value, sequence=value.sequence[:rows], lengths=seen, max_length=int(seen.max())
        )
    if isinstance(value, torch.Tensor) and value.dim() > 1:
        return value[:rows]
    return value


@pytest.mark.parametrize(("vendor", "fused"), RECORDS)
def test_what_decides_is_the_same_for_any_batch(vendor: str, fused: Fused) -> None:
    arguments = ARGUMENTS[fused.op]()
    for rows in (1, 2):
        part = tuple(_first(value, rows) for value in arguments)
        assert fused.obstacle(None, *arguments) is fused.obstacle(None, *part) is None


OBSTACLES = [
    ("latent_attention", lambda: given.attention()[:-1], "attention without indices"),
    ("latent_attention", lambda: given.attention(dtype=torch.float32), "it takes bfloat16"),
    ("index_scores", lambda: given.index(dtype=torch.float32), "it takes bfloat16"),
    ("index_scores", lambda: given.index(page_size=16), "pages of 16 rows; it takes 64"),
    ("index_scores", lambda: given.index(width=64), "index keys of 64 values; it takes 128"),
    ("grouped_linear", lambda: given.grouped(torch.float32), "it takes bfloat16"),
    ("swiglu", lambda: (given.randn(2, 8, dtype=torch.float32),), "it takes bfloat16"),
]


@pytest.mark.parametrize(("op", "arguments", "reason"), OBSTACLES)
def test_an_obstacle_is_named(op: str, arguments: Any, reason: str) -> None:
    records = [case.values[1] for case in RECORDS if case.values[1].op == op]
    assert records
    for fused in records:
        assert isinstance(fused, Fused)
        assert reason in str(fused.obstacle(None, *arguments()))


def test_rows_of_another_width_are_an_obstacle() -> None:
    q_latent, q_rope, *others = given.attention()
    for fused in (case.values[1] for case in RECORDS if case.values[1].op == "latent_attention"):
        assert isinstance(fused, Fused)
        reason = fused.obstacle(None, q_latent[..., :256], q_rope, *others)
        assert reason == "rows of 256 + 64 values; it takes 512 + 64"


@pytest.mark.parametrize(
    ("vendor", "changes", "reason"),
    [
        ("moore_threads", {"experts": 32}, "32 experts in 1 groups; it has no kernel of its own"),
        ("moore_threads", {"groups": 4}, "256 experts in 4 groups; it has no kernel of its own"),
        ("hygon", {"groups": 7}, "256 experts in 7 groups; it takes equal groups of several"),
        ("hygon", {"groups": 256}, "256 experts in 256 groups; it takes equal groups of several"),
        ("metax", {"groups": 64}, "64 groups, 8 experts a token; it takes up to 32 of either"),
        ("metax", {"groups": 7}, "256 experts in 7 groups; it takes equal groups"),
        ("kunlun", {"groups": 7}, "256 experts in 7 groups; it takes equal groups"),
        ("cambricon", {"groups": 7}, "256 experts in 7 groups; it takes equal groups"),
    ],
)
def test_a_routers_obstacle_is_named(vendor: str, changes: dict[str, int], reason: str) -> None:
    (fused,) = (fused for fused in VENDORS[vendor] if fused.op == "moe_route")
    assert reason in str(fused.obstacle(None, *given.route(**changes)))


@pytest.mark.parametrize(
    ("found", "fits"),
    [
        ("0.6.0", True),
        ("0.6.0+das.dtk2604.torch2110.2608171227.g8c835c", True),
        ("0.6.9rc1", True),
        ("0.5.9", False),
        ("0.7.0", False),
        ("unknown", False),
    ],
)
def test_only_versions_whose_calls_are_known_fit(found: str, fits: bool) -> None:
    misfit = Library("lib", "from somewhere", "0.6", "0.7").misfit(found)
    assert (misfit is None) is fits
    assert fits or f"lib {found} is installed, its calls are known from 0.6 to below 0.7" in str(
        misfit
    )
    assert Library("lib", "from somewhere").misfit(found) is None
