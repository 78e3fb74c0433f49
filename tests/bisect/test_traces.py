"""`trace` and `bisect --trace`: what a file holds, what cannot be compared, what is damaged."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import IDS, Call
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from glm5_hal import open_runtime
from glm5_hal.conformance.bisect import casefile, tracefile
from glm5_hal.conformance.bisect.matching import TracesApartError, Verdict, match
from glm5_hal.conformance.bisect.sites import Counting, Site
from glm5_hal.conformance.bisect.traces import Print, Traced


@pytest.fixture(scope="session")
def traced(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of the CPU with two calls kept whole; treat it as read-only."""
    from glm5_hal.cli import app

    folder = tmp_path_factory.mktemp("traces")
    (folder / "ids.json").write_text(json.dumps(IDS))
    arguments = ("trace", tiny, "--input-ids", folder / "ids.json", "--backend", "cpu")
    more = ("--out", folder / "cpu", "--tensors", "layer1.dsa_select#0,layer2.moe_route")
    app([str(part) for part in (*arguments, *more)], standalone_mode=False)
    return folder / "cpu"


def rewritten(path: Path, out: Path, **facts: object) -> Path:
    """A trace that says other things of itself."""
    with safe_open(path, framework="pt") as file:
        known = json.loads(file.metadata()["trace"])
    save_file(load_file(path), out, metadata={"trace": json.dumps({**known, **facts})})
    return out


def test_what_a_trace_says(traced: Path, tiny: Path) -> None:
    trace = tracefile.read(traced)
    origin = trace.origin
    assert origin.backend == "cpu:0"
    assert origin.plan_hash == open_runtime("cpu", "exact").plan.hash
    assert origin.ids == IDS
    assert origin.checkpoint == str(tiny)
    assert "layers.2.mlp.gate_up" in origin.weights
    names = [call.site.name for call in trace.calls]
    assert len(set(names)) == len(names)
    assert names[0] == "model.embedding#0"
    assert names[-1] == "model.linear#0"
    assert names.index("layer1.mla#0/head_linear#1") < names.index("layer1.mla#0")
    by_name = dict(zip(names, trace.calls, strict=True))
    linear = by_name["layer1.linear#0"].given
    assert linear["w"] == Print("bfloat16", (64, 128), origin.weights["layers.1.attention.q_a"])
    assert linear["out_dtype"] == "None"
    assert by_name["layer1.moe_experts#0"].given["shared"] == by_name["layer1.linear#9"].gave[0]
    written = by_name["layer1.cache_write#0"].gave[0]
    assert by_name["layer1.mla#0/latent_attention#0"].given["cache"] == written


def test_outputs_are_the_next_inputs(traced: Path) -> None:
    """What one call gives is what another is given: prints are of bytes, not of calls."""
    calls = {call.site.name: call for call in tracefile.read(traced).calls}
    assert calls["layer1.dsa_select#0"].gave[0] == calls["layer1.mla#0"].given["indices"]
    assert calls["layer0.rms_norm#3"].gave[0] == calls["layer1.linear#0"].given["x"]
    ids, weights = calls["layer2.moe_route#0"].gave
    experts = calls["layer2.moe_experts#0"].given
    assert (experts["ids"], experts["weights"]) == (ids, weights)


def test_calls_kept_whole_can_be_asked_again(traced: Path) -> None:
    kept = tracefile.read(traced).kept
    assert sorted(kept) == ["layer1.dsa_select#0", "layer2.moe_route#0"]
    for call, results in kept.values():
        for want, got in zip(
            results, call.defined(open_runtime("cpu", "exact").plan.numerics), strict=True
        ):
            assert torch.equal(want, got)


def test_a_trace_is_compact_and_the_same_each_time(
    call: Call, tiny: Path, ids: Path, tmp_path: Path
) -> None:
    run = ("trace", tiny, "--input-ids", ids, "--backend", "cpu", "--out", tmp_path / "again")
    result = call(*run)
    assert result.exit_code == 0
    first = (tmp_path / "again").read_bytes()
    assert len(first) < 20_000
    assert "wrote" in result.stdout
    assert "131 op calls" in result.stdout
    call(*run)
    assert (tmp_path / "again").read_bytes() == first
    same = call("bisect", "--trace", tmp_path / "again", "--trace", tmp_path / "again")
    assert same.exit_code == 0
    assert "all 131 op calls" in same.stdout


def test_passes_have_names_of_their_own(
    call: Call, tiny: Path, ids: Path, tmp_path: Path, traced: Path
) -> None:
    out = tmp_path / "cut"
    call("trace", tiny, "--input-ids", ids, "--backend", "cpu", "--out", out, "--chunk", 25)
    names = [c.site.name for c in tracefile.read(out).calls]
    assert "layer2.rope#1" in names
    assert "pass1:layer2.rope#1" in names
    result = call("bisect", "--trace", out, "--trace", traced)
    assert result.exit_code == 2
    assert "the traces differ in --chunk: 25 in the first, none in the second" in result.stderr


def test_two_backends_that_fuse_other_ops(call: Call, tiny: Path, ids: Path, traced: Path) -> None:
    run = ("trace", tiny, "--input-ids", ids, "--backend", "cpu-limbs", "--out", "limbs")
    assert call(*run).exit_code == 0
    result = call("bisect", "--trace", "limbs", "--trace", traced, "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert not document["differs"]
    assert document["plans"][0] != document["plans"][1]


def test_traces_that_cannot_be_compared(
    call: Call, traced: Path, tiny: Path, tmp_path: Path
) -> None:
    for facts, message in (
        ({"contract_version": 7}, "the traces differ in contract version: 7 in the first"),
        ({"numerics": "fast"}, "the traces differ in numerics: fast"),
        ({"ids": [[1, 2]]}, "the traces are of 1 and of 2 sequences"),
        ({"ids": [IDS[0], [1]]}, "the token ids of sequence 1 differ"),
        ({"options": {"dtype": "fp32"}}, "the traces differ in --dtype: fp32"),
        ({"format": "glm5-hal trace 9"}, "is not a trace that this version reads"),
    ):
        other = rewritten(traced, tmp_path / "other", **facts)
        result = call("bisect", "--trace", other, "--trace", traced)
        assert result.exit_code == 2
        assert message in result.stderr


def test_another_checkpoint_is_named_by_its_weight(traced: Path) -> None:
    trace = tracefile.read(traced)
    weights = {**trace.origin.weights, "layers.3.attention.q_b": "0" * 64}
    other = replace(trace, origin=replace(trace.origin, weights=weights))
    with pytest.raises(TracesApartError, match=r"1 of \d+ weights.*layers\.3\.attention\.q_b"):
        tracefile.check_pair(trace, other)


def test_another_sequence_of_calls(traced: Path) -> None:
    calls = tracefile.read(traced).calls
    own = [place for place, c in enumerate(calls) if not c.site.within]
    with pytest.raises(TracesApartError, match=r"the traces part at call 3: .* in the first"):
        match(calls[: own[3]] + calls[own[4] :], calls)
    with pytest.raises(TracesApartError, match="trace whole runs"):
        match(calls[: own[-1]], calls)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "text", "missing"])
def test_damaged_files(call: Call, traced: Path, tmp_path: Path, damage: str) -> None:
    content = traced.read_bytes()
    bad = tmp_path / "bad"
    if damage == "flipped":
        tensors = load_file(traced)
        tensors["digests"][5, 7] ^= 1
        with safe_open(traced, framework="pt") as file:
            save_file(tensors, bad, metadata=file.metadata())
    elif damage != "missing":
        written = {"cut": content[:-100], "empty": b"", "text": b"a trace, once"}
        bad.write_bytes(written[damage])
    result = call("bisect", "--trace", bad, "--trace", traced)
    assert result.exit_code == 2
    expected = {
        "flipped": "is damaged: its digest is not that of what it holds",
        "missing": "does not exist; `glm5-hal trace` writes traces",
    }
    assert expected.get(damage, "It is no trace, or not all of one: copy it again") in result.stderr


def test_one_trace_is_not_enough(call: Call, traced: Path) -> None:
    result = call("bisect", "--trace", traced)
    assert result.exit_code == 2
    assert "--trace is given 1 times, expected twice" in result.stderr


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("layer9.topk", "no part of this model is called 'layer9'; expected model, or layer0 to"),
        ("layer1.tokp", "no op 'tokp'; ops: "),
        ("layer1.sample", "the run makes no such call"),
    ],
)
def test_tensors_that_do_not_exist(
    call: Call, tiny: Path, ids: Path, tmp_path: Path, selector: str, message: str
) -> None:
    out = tmp_path / "out"
    run = ("trace", tiny, "--input-ids", ids, "--backend", "cpu", "--out", out)
    result = call(*run, "--tensors", selector)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not out.exists()


# --- matching, on calls made by hand ---


def made(*outputs: str, given: str = "a", op: str = "linear", number: int = 0) -> Traced:
    """A call that is given a tensor and gives some."""
    site = Site(op, "layer0", number)
    return Traced(site, {"x": printed(given)}, tuple(map(printed, outputs)))


def printed(text: str) -> Print:
    return Print("float32", (1,), text)


def test_guilty_and_following_calls() -> None:
    judged = [made("b"), made("X", given="b", number=1), made("Y", given="X", number=2)]
    right = [made("b"), made("c", given="b", number=1), made("d", given="c", number=2)]
    found = match(judged, right)
    assert [m.verdict for m in found.all] == [Verdict.SAME, Verdict.GUILTY, Verdict.FOLLOWS]
    assert found.guilty is found.all[1]
    assert found.guilty.outputs == (0,)
    assert found.all[2].inputs == ("x",)
    assert found.foundling is None


def test_an_input_that_no_call_gave() -> None:
    judged = [made("b"), made("Y", given="X", number=1)]
    right = [made("b"), made("c", given="b", number=1)]
    found = match(judged, right)
    assert found.guilty is None
    assert found.foundling is found.all[1]


def test_names_of_calls() -> None:
    counting = Counting()
    composite = counting.enter("dsa_select", "layer3")
    part = counting.enter("topk", "layer3")
    counting.leave()
    counting.leave()
    again = counting.enter("dsa_select", "layer3")
    counting.leave()
    counting.next_pass()
    later = counting.enter("dsa_select", "layer3")
    assert [site.name for site in (composite, part, again, later)] == [
        "layer3.dsa_select#0",
        "layer3.dsa_select#0/topk#0",
        "layer3.dsa_select#1",
        "pass1:layer3.dsa_select#0",
    ]
    assert (part.path, part.composite, composite.composite) == ("dsa_select/topk", "dsa_select", "")
    assert part.chosen(["layer3.topk"])
    assert part.chosen(["layer3"])
    assert later.chosen(["pass1:layer3.dsa_select#0"])
    assert not later.chosen(["layer3.dsa_select#0", "layer3.topk", "layer30"])


def test_a_case_is_read_as_it_was_written(traced: Path, tmp_path: Path) -> None:
    ((call, results),) = [tracefile.read(traced).kept["layer1.dsa_select#0"]]
    case = casefile.CaseFile(
        call, results, (), "exact", "layer1", "layer1.dsa_select#0", ("a", "b"), ("TOPK-1",)
    )
    tensors, metadata = case.content()
    save_file(tensors, tmp_path / "case", metadata=metadata)
    again = casefile.read(tmp_path / "case")
    assert again.call.arguments["scale"] == call.arguments["scale"]
    assert again.call.arguments["context"].max_length == call.arguments["context"].max_length
    assert torch.equal(again.call.arguments["q"], call.arguments["q"])
    assert again.call.arguments["q"].stride() == call.arguments["q"].stride()
    assert (again.backends, again.requirements, again.found) == (("a", "b"), ("TOPK-1",), ())
