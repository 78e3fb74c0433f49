"""What must be done at least: formulas against numbers worked out by hand."""

import pytest
import torch

from glm5_hal.conformance.bench import cases, floor, peer, work
from glm5_hal.conformance.bench.floor import ATTENTION, LINEARS, SCORES
from glm5_hal.conformance.bench.peaks import Peaks
from glm5_hal.conformance.bench.work import Work
from glm5_hal.conformance.errors import AskedError
from glm5_hal.contract import OPS
from glm5_hal.model.config import ModelConfig

MID = ModelConfig.load("mid")
BF16 = 2


def test_a_prefill_of_mid() -> None:
    parts = floor.prefill(MID, 4096, BF16).parts
    # A token of a layer passes q_a 1024 x 512, q_b 512 x 2048, kv_a 1024 x 576, W_UK 8 x 512 x 192,
    # W_UV 8 x 512 x 256, out 2048 x 1024; of an indexer 512 x 4096 and 1024 x (128 + 32);
    attention = 524_288 + 1_048_576 + 589_824 + 786_432 + 1_048_576 + 2_097_152
    indexer = 2_097_152 + 163_840
    # one dense block of 3 x 1024 x 2048; 5 times 1 + 8 experts of 3 x 1024 x 256 and a router.
    blocks = 6_291_456 + 5 * (9 * 786_432 + 32_768)
    token = 6 * (attention + indexer) + blocks
    assert parts[LINEARS].flop == 2 * (4096 * token + 4096 * 1024)
    # Rows attended to: 1 + ... + 2048, then 2048 of each; 8 heads x 2 x (576 + 512) a row.
    pairs = 2048 * 2049 // 2 + 2048 * 2048
    assert parts[ATTENTION].flop == 6 * pairs * 17_408
    # Every pair is scored by 32 heads of 128: 8,192 operations.
    assert parts[SCORES].flop == 6 * (4096 * 4097 // 2) * 8_192
    shown = {name: round(part.flop / 1e12, 1) for name, part in parts.items()}
    assert shown == {LINEARS: 0.8, ATTENTION: 0.7, SCORES: 0.4}


def test_a_decode_step_of_mid() -> None:
    found = floor.decode(MID, 4096, BF16)
    # 2,048 rows of 576 are read and one is written; 4,097 index keys of 128 are read; each 6 times
    assert found.parts[ATTENTION].bytes == 6 * 2049 * 576 * BF16
    assert found.parts[SCORES].bytes == 6 * 4097 * 128 * BF16
    assert found.parts[ATTENTION].flop == 6 * 2048 * 17_408
    # weights of a token: those of the prefill above, and the head
    assert found.parts[LINEARS].bytes == pytest.approx(0.192e9, rel=0.01)
    assert found.bytes == sum(part.bytes for part in found.parts.values())


def test_routed_experts_are_touched_as_often_as_expected() -> None:
    """With 8 of 32 experts a token, two tokens choose 8 + 8 * 3/4 different ones."""
    expert = 3 * 1024 * 256
    one, two = (floor.passed(MID, n, 0, BF16).parts[LINEARS].bytes for n in (1, 2))
    assert two - one == BF16 * (5 * 6 * expert + 1024)


def test_before_the_topk_every_row_is_attended_to() -> None:
    [short, long] = [floor.passed(MID, 10, past, BF16).parts[ATTENTION].flop for past in (5, 9000)]
    assert short == 6 * 17_408 * sum(range(6, 16))
    assert long == 6 * 17_408 * 10 * 2048
    across = floor.passed(MID, 10, 2043, BF16).parts[ATTENTION].flop
    assert across == 6 * 17_408 * (2044 + 2045 + 2046 + 2047 + 2048 * 6)


def test_a_pair_costs_glm5_eight_times_as_much() -> None:
    glm5 = ModelConfig.load("glm5")
    found = floor.passed(glm5, 1, 100_000, BF16).parts
    assert found[ATTENTION].flop == 78 * 2048 * 139_264
    assert found[SCORES].flop == 78 * 100_001 * 8_192


def test_shared_layers_score_nothing() -> None:
    keys = {"num_hidden_layers": 6, "indexer_types": ("full", "shared") * 3}
    half = ModelConfig(**{**vars(MID), **keys})
    assert 2 * floor.prefill(half, 50, BF16).parts[SCORES].flop == (
        floor.prefill(MID, 50, BF16).parts[SCORES].flop
    )


def test_the_longer_of_operations_and_bytes_is_the_floor() -> None:
    peaks = Peaks(flops=100.0, bandwidth=10.0)
    assert Work(500, 20).seconds(peaks) == 5.0
    assert Work(500, 60).seconds(peaks) == 6.0
    assert floor.Floor({"a": Work(500, 20), "b": Work(0, 60)}).seconds(peaks) == 11.0


def test_the_peer_needs_what_was_measured_of_it() -> None:
    """18.2 GB on mid at 8,192 tokens in bf16."""
    assert peer.bytes_needed(MID, 8192, BF16) == pytest.approx(18.2e9, rel=0.02)


# --- single ops ---


def found(op: str, dtype: str = "bf16", **sizes: int) -> Work:
    return work.of(cases.OpCase(op, sizes).call(dtype))


@pytest.mark.parametrize(
    ("op", "sizes", "flop", "moved"),
    [
        ("linear", {"T": 3, "K": 8, "N": 5}, 2 * 3 * 8 * 5, 2 * (3 * 8 + 5 * 8 + 3 * 5)),
        (
            "head_linear",
            {"T": 3, "H": 2, "K": 8, "N": 5},
            2 * 3 * 2 * 8 * 5,
            2 * (3 * 2 * 8 + 2 * 5 * 8 + 3 * 2 * 5),
        ),
        ("embedding", {"T": 3, "V": 100, "D": 8}, 0, 3 * 4 + 2 * 2 * 3 * 8),
        # x, residual and two results; the weight is float32
        ("rms_norm", {"T": 3, "D": 8}, 0, 4 * 2 * 3 * 8 + 4 * 8),
        ("layer_norm", {"T": 3, "D": 8}, 0, 2 * 2 * 3 * 8 + 2 * 4 * 8),
        ("swiglu", {"T": 3, "I": 8}, 0, 2 * (3 * 16 + 3 * 8)),
        ("cache_write", {"T": 3, "W": 8, "pages": 2, "page": 4}, 0, 2 * 2 * 3 * 8 + 3 * 4),
        ("cache_read", {"N": 3, "W": 8, "pages": 2, "page": 4}, 0, 2 * 2 * 3 * 8 + 3 * 4),
        ("topk", {"T": 2, "S": 100, "k": 7}, 0, 4 * (2 * 100 + 2 + 2 * 7)),
        # logits, bias, ids and weights
        (
            "moe_route",
            {"T": 3, "E": 8, "k": 2, "n_group": 1, "topk_group": 1},
            0,
            4 * (3 * 8 + 8 + 2 * 3 * 2),
        ),
        # x, ids, rows, slots and offsets
        (
            "moe_dispatch",
            {"T": 3, "D": 8, "E": 4, "k": 2},
            0,
            2 * 3 * 8 + 4 * 6 + 2 * 6 * 8 + 4 * 6 + 4 * 5,
        ),
        # rows, slots, weights, shared, and the result
        ("moe_combine", {"T": 3, "D": 8, "k": 2}, 0, 2 * 6 * 8 + 4 * 6 + 4 * 6 + 2 * 2 * 3 * 8),
        # 5 steps of X X^T, A A and (...) X with X [4, 6]
        (
            "muon_orthogonalize",
            {"B": 2, "m": 6, "n": 4},
            2 * 5 * 2 * (4 * 6 * 4 + 4 * 4 * 4 + 4 * 4 * 6),
            2 * 2 * 2 * 24,
        ),
        ("sample", {"T": 3, "V": 10}, 0, 4 * (3 * 10 + 3 * 3 + 3)),
        ("row_exponents", {"T": 3, "K": 8}, 0, 2 * 3 * 8 + 4 * 3),
        # three int32 limbs an element; the exponents of the rows
        (
            "linear_limbs",
            {"T": 3, "K": 8, "N": 5},
            2 * 3 * 8 * 5,
            2 * (3 * 8 + 5 * 8) + 4 * 3 + 12 * 3 * 5,
        ),
        ("linear_from_limbs", {"T": 3, "K": 8, "N": 5}, 0, 12 * 3 * 5 + 4 * 3 + 2 * 3 * 5),
    ],
)
def test_the_work_of_an_op(op: str, sizes: dict[str, int], flop: int, moved: int) -> None:
    assert found(op, **sizes) == Work(flop, moved)


def test_sparse_attention_reads_each_named_row_once() -> None:
    """One token on the longest of three sequences: tokens, sequence, lengths and page tables."""
    sizes = {"T": 1, "H": 4, "C": 8, "R": 2, "S": 40, "k": 6, "page": 8}
    query, rows, indices = 2 * 4 * 10, 2 * 6 * 10, 4 * 6
    result = 2 * 4 * 8
    assert found("latent_attention", **sizes) == Work(
        6 * 4 * 2 * (10 + 8), query + rows + indices + result
    )


def test_dense_attention_reads_every_visible_row() -> None:
    """Three tokens, the last of sequences of 13, 20 and 40 rows."""
    sizes = {"T": 3, "H": 4, "C": 8, "R": 2, "S": 40, "k": 0, "page": 8}
    moved = 2 * (3 * 4 * 10 + 73 * 10 + 3 * 4 * 8)
    assert found("latent_attention", **sizes) == Work(73 * 4 * 2 * 18, moved)


def test_scores_need_not_be_written_by_a_selection() -> None:
    sizes = {"T": 3, "H": 4, "D": 8, "S": 40, "page": 8}
    read = 2 * 3 * 4 * 8 + 4 * 3 * 4 + 2 * 73 * 8
    assert found("index_scores", **sizes) == Work(73 * 4 * 16, read + 4 * 3 * 40)
    assert found("dsa_select", **sizes, k=6) == Work(73 * 4 * 16, read + 4 * 3 * 6)


def test_only_experts_that_have_rows_are_read() -> None:
    one = found("moe_experts", T=1, D=8, I=4, E=6, k=2)
    inputs = 2 * 8 + 4 * 2 + 4 * 2 + 2 * 8 + 2 * 8  # x, ids, weights, shared; the result
    assert one == Work(2 * 2 * 3 * 8 * 4, inputs + 2 * 2 * 3 * 8 * 4)
    offsets = torch.tensor([0, 3, 3, 5], dtype=torch.int32)
    case = cases.OpCase("grouped_linear", {"P": 5, "K": 8, "N": 4, "E": 3})
    call = case.call("bf16").with_arguments(offsets=offsets)
    assert work.of(call) == Work(2 * 5 * 8 * 4, 2 * (5 * 8 + 2 * 4 * 8 + 5 * 4) + 4 * 4)


# --- cases ---


def test_every_op_has_cases_at_every_model() -> None:
    for name in ("tiny", "mid", "glm5"):
        chosen = cases.chosen([ModelConfig.load(name)])
        assert {case.op for case in chosen} == set(OPS), name
        assert len({case.id for case in chosen}) == len(chosen)


def test_what_the_issues_ask_for_is_timed() -> None:
    ids = {case.id for case in cases.chosen([ModelConfig.load("glm5")])}
    assert {
        "topk/T64-S131072-k2048/torch.topk",
        "topk/T64-S131072-k2048/torch.sort",
        "linear/T4096-K4096-N4096",
        "latent_attention/T1-H64-C512-R64-S131072-k2048-page64",
        *(f"linear/T{rows}-K6144-N2048" for rows in (1, 4, 16, 64, 256, 1024, 4096)),
    } <= ids


def test_cases_of_two_models_are_each_timed_once() -> None:
    mid = ModelConfig.load("mid")
    assert cases.chosen([mid, mid]) == cases.chosen([mid])
    some = cases.chosen([mid], ["topk", "rope"])
    assert {case.op for case in some} == {"topk", "rope"}


def test_an_unknown_op_is_named() -> None:
    with pytest.raises(AskedError, match="no op is called tpok; there are cache_read"):
        cases.chosen([MID], ["tpok", "rope"])
