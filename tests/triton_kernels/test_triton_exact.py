"""The exact profile's kernels, interpreted: the bytes of the definitions, whatever the tiles."""

import os
import subprocess
import sys

import pytest
import torch

from glm5_hal.backends.torch_triton.backend import missing_triton

if missing := missing_triton():
    pytest.skip(missing, allow_module_level=True)
from interpreted import MODES, difference, dsa_select_with, runtime, select
from wild_calls import Wild

from glm5_hal import Numerics, PagedContext, Weight, WeightRole
from glm5_hal.conformance.reference_backend import reference_runtime
from glm5_hal.conformance.subjects import BUILDERS, Variant, variants
from glm5_hal.errors import ContractError
from glm5_hal.ops import sample, topk

pytestmark = [  # of the interpreter's arrays: NaN, and one-element arrays as numbers
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SLOW = {"muon_orthogonalize", "mla", "moe_experts"}
OPS = sorted(set(BUILDERS) - {"mla_expanded"})
QUICK = [v for op in OPS for v in variants(op, quick_only=True)]
EDGES = [
    v
    for op in ("linear", "rms_norm", "layer_norm", "rope", "swiglu", "moe_combine", "head_linear")
    for v in variants(op, kinds=("zeros", "subnormal", "inf", "nan"), quick_only=True)
]
WILD = sorted(name for name in vars(Wild) if name in BUILDERS)


@pytest.mark.parametrize("variant", QUICK, ids=lambda v: f"{v.op}-{v.label}")
def test_exact_kernels_give_the_bytes_of_the_definition(variant: Variant) -> None:
    assert difference(variant.call(), "large") is None


@pytest.mark.parametrize("variant", EDGES, ids=lambda v: f"{v.op}-{v.label}")
def test_exact_kernels_keep_to_it_at_the_edges_of_the_floats(variant: Variant) -> None:
    assert difference(variant.call(), "large") is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("op", [op for op in WILD if op not in SLOW])
def test_exact_kernels_give_the_bytes_of_wild_calls(op: str, mode: str) -> None:
    for seed in (20, 21):
        call = Wild(seed).call(op)
        assert difference(call, mode) is None, (op, seed)


def test_row_parallel_limbs_add_up_to_the_linear() -> None:
    backend = runtime(Numerics.EXACT, "large").backend
    definition = reference_runtime(Numerics.EXACT).backend
    x, w = torch.randn(5, 70), torch.randn(9, 70).bfloat16()
    x[1, 3] = torch.inf
    halves = ((0, 33), (33, 70))
    exponents = torch.stack([backend.row_exponents(x[:, a:b]) for a, b in halves]).amax(0)
    shards = [backend.prepare_shard(w, a, b) for a, b in halves]
    limbs = sum(
        backend.linear_limbs(x[:, a:b], shard, exponents)
        for (a, b), shard in zip(halves, shards, strict=True)
    )
    assert isinstance(limbs, torch.Tensor)
    found = backend.linear_from_limbs(limbs, exponents, shards[0], torch.bfloat16)
    weight = definition.prepare_weight(WeightRole.LINEAR, w)
    wanted = definition.linear(x, weight, torch.bfloat16)
    assert torch.equal(found.view(torch.int16), wanted.view(torch.int16))


def test_sums_longer_than_the_profile_defines_are_refused() -> None:
    backend = runtime(Numerics.EXACT, "large").backend
    from glm5_hal.kernels.triton import fixing

    planes = torch.zeros(3, 1, 1 << 17, dtype=torch.int8)
    digits = fixing.Digits(planes, torch.zeros(1, dtype=torch.int32))
    weight = Weight(WeightRole.LINEAR, (1, 1 << 17), torch.float32, digits)
    with pytest.raises(ContractError, match="131,072"):
        backend.linear(torch.ones(0, 1 << 17), weight)


def test_sums_longer_than_one_int32_segment_are_exact() -> None:
    backend = runtime(Numerics.EXACT, "large").backend
    x = torch.full((1, 33_000), 2.0**22 - 1).bfloat16()
    weight = backend.prepare_weight(WeightRole.LINEAR, x)
    found = backend.linear(x, weight)
    definition = reference_runtime(Numerics.EXACT).backend
    wanted = definition.linear(x, definition.prepare_weight(WeightRole.LINEAR, x))
    assert torch.equal(found, wanted)


def test_a_draw_among_weights_that_sum_beyond_32_bits() -> None:
    top_p = torch.tensor([1.0, 2.0, 0.5, 2.0**-24, 0.0, -1.0, 0.7])
    draws = torch.tensor([(1 << 24) - 1, 1 << 23, 3, (1 << 24) - 1, 5, 6, 12345678]).int()
    logits = torch.zeros(7, 300)
    logits[6] = torch.linspace(-3, 0, 300)
    heat = torch.ones(7)
    found = runtime(Numerics.EXACT, "large").backend.sample(logits, heat, top_p, draws)
    assert torch.equal(found, sample.definition(Numerics.EXACT)(logits, heat, top_p, draws))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("barriers", [True, False])
@pytest.mark.parametrize("k", [1, 40, 300])
def test_selection_with_and_without_a_matrix_of_scores(mode: str, barriers: bool, k: int) -> None:
    backend = runtime(Numerics.EXACT, mode).backend
    keys = backend.allocate_cache(8, 64, 16, torch.bfloat16)
    made = torch.Generator().manual_seed(k)
    # few different keys: many ties, and many scores of exactly zero
    rows = torch.randn(9, 16, generator=made)[torch.randint(9, (512,), generator=made)]
    backend.cache_write(keys, rows.bfloat16(), torch.arange(512, dtype=torch.int32))
    lengths = torch.tensor([1, 39, 130, 500], dtype=torch.int32)
    pages = torch.randperm(8, generator=made).int()[None]
    context = PagedContext(pages, torch.zeros(4, dtype=torch.int32), lengths, 512)
    q = torch.randn(4, 3, 16, generator=made).bfloat16()
    w = torch.randn(4, 3, generator=made)
    chosen = dsa_select_with(barriers, mode)(q, w, keys.tensor, 64, context, 0.25, k)
    scores = backend.index_scores(q, w, keys, context, 0.25)
    assert torch.equal(chosen, topk.reference(scores, lengths, k))


ROWS = {
    "all equal": torch.zeros(1, 400),
    "a plateau that holds the cut": torch.cat((torch.zeros(400), torch.ones(10)))[None],
    "zeros of both signs": torch.tensor([[-0.0, 0.0] * 400]),
    "NaN": torch.where(torch.arange(700) % 9 == 0, torch.nan, torch.arange(700.0))[None],
    "infinities": torch.tensor([[torch.inf, -torch.inf, 1.0] * 50]),
    "subnormal": (torch.arange(500) * 2.0**-149)[None],
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_top_k_of_adversarial_rows(row: torch.Tensor, mode: str) -> None:
    width = row.shape[1]
    for k, length in ((33, width), (64, 40), (1, width), (width, width)):
        wanted = topk.reference(row, torch.tensor([length], dtype=torch.int32), k)
        assert torch.equal(select(row, [length], k, mode), wanted), (k, length)


def test_top_k_of_a_row_of_200_000_columns() -> None:
    row = torch.relu(torch.randn(1, 200_000, generator=torch.Generator().manual_seed(1)))
    row[0, 150_000:] = 0.0
    row[0, torch.arange(0, 150_000, 75)] = 3.0  # a plateau at the cut
    lengths = torch.tensor([200_000], dtype=torch.int32)
    assert torch.equal(select(row, [200_000], 2048, "large"), topk.reference(row, lengths, 2048))


def test_the_catalogue_names_each_kernel_once_and_every_profile_of_an_op() -> None:
    runtime(Numerics.EXACT, "large")  # from here on kernels are interpreted
    from glm5_hal.kernels.triton import catalogue

    entries = catalogue.kernels()
    names = [entry.name for entry in entries]
    assert len(set(names)) == len(names)
    for entry in entries:
        assert list(entry.signature) == entry.function.arg_names, entry.name
        assert set(entry.constexprs) == {n for n, t in entry.signature.items() if t == "constexpr"}
    for op in ("linear", "grouped_linear", "latent_attention", "index_scores", "rms_norm"):
        assert {entry.profile for entry in entries if entry.op == op} == set(Numerics)


def test_a_triton_imported_for_compiling_is_not_interpreted() -> None:
    source = (
        "import triton.language\n"
        "from glm5_hal.backends.triton_interpret.backend import TritonInterpretBackend\n"
        "print(TritonInterpretBackend.is_available())"
    )
    environment = {name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", source], env=environment, capture_output=True, text=True, check=True
    )
    assert "(False, 'triton was imported before TRITON_INTERPRET=1" in done.stdout
