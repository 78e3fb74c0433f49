"""Packs: what they hold, who can run them, what is found in outputs, what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_packed import OPS, call, onnx, run_pack

from glm5_hal.conformance import sources
from glm5_hal.conformance.case import Case, Evidence, Failure
from glm5_hal.conformance.families.judging import raw_digests
from glm5_hal.conformance.onnx_packs import tensors, writing
from glm5_hal.conformance.selection import Selection
from glm5_hal.levels import Numerics
from glm5_hal.runtime import Runtime

PROFILES = [*OPS]


def manifest_of(pack: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((pack / "manifest.json").read_text())
    return found


def output_of(pack: Path, op: str) -> str:
    """The first output of the first case of an op that is judged by the definition's bytes."""
    cases = manifest_of(pack)["cases"]
    name = next(n for n, case in cases.items() if case["op"] == op and "parity-bytes" in n)
    return f"{cases[name]['data_sets'][0]}/output_0.pb"


def tensor_at(path: Path) -> Any:
    return onnx.numpy_helper.to_array(onnx.load_tensor(str(path))).copy()


def write(array: Any, path: Path) -> None:
    onnx.save_tensor(onnx.numpy_helper.from_array(array), str(path))


# --- what is in a pack ---


@pytest.mark.parametrize("numerics", PROFILES)
def test_every_selected_case_is_packed_or_left_out_with_a_reason(
    numerics: str, packs: dict[str, Path]
) -> None:
    content = manifest_of(packs[numerics])
    selection = Selection(Numerics(numerics), True, tuple(OPS[numerics].split(",")))
    selected = selection.of(sources.SUITE.cases())
    assert not content["cases"].keys() & content["left_out"].keys()
    assert {*content["cases"], *content["left_out"]} == {*selected}
    assert all(content["left_out"].values())
    assert {case["op"] for case in content["cases"].values()} == {*OPS[numerics].split(",")}
    for name, case in content["cases"].items():
        accuracy = numerics == "fast" and selected[name].relation == "accuracy"
        assert case["judged"] == ("bound" if accuracy else "bytes")


@pytest.mark.parametrize("numerics", PROFILES)
def test_the_layout_is_that_of_backend_tests(numerics: str, packs: dict[str, Path]) -> None:
    content = manifest_of(packs[numerics])
    for folder, entry in content["data_sets"].items():
        model = onnx.load(str(packs[numerics] / folder).rsplit("/", 1)[0] + "/model.onnx")
        assert [(o.domain, o.version) for o in model.opset_import] == [("", content["opset"])]
        files = {path.name for path in (packs[numerics] / folder).iterdir()}
        inputs, outputs = model.graph.input, model.graph.output
        assert files == {
            *(f"input_{place}.pb" for place in range(len(inputs))),
            *(f"output_{place}.pb" for place in range(len(outputs))),
        }
        for place, declared in enumerate(inputs):
            given = onnx.load_tensor(str(packs[numerics] / folder / f"input_{place}.pb"))
            assert (given.name, given.data_type) == (
                declared.name,
                declared.type.tensor_type.elem_type,
            )
        expected = [
            tensors.load(packs[numerics] / folder / f"output_{place}.pb")
            for place in range(len(outputs))
        ]
        assert [*raw_digests(tuple(expected)).values()] == [o["sha256"] for o in entry["outputs"]]


def test_two_packs_of_one_selection_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        assert call("export-onnx", tmp_path / name, "--quick", "--ops", "swiglu").exit_code == 0
    one, other = manifest_of(tmp_path / "one"), manifest_of(tmp_path / "other")
    for key in ("files", "data_sets", "cases", "left_out"):
        assert one[key] == other[key]


def test_a_check_that_fails_on_the_definitions_makes_no_pack(tmp_path: Path) -> None:
    def check(_: Runtime) -> Evidence:
        raise Failure("never right")

    case = Case("exact/x", "SWIGLU-1", "swiglu", "function", "parity", check, Numerics.EXACT)
    with pytest.raises(writing.PackWriteError, match="exact/x fails on the definitions"):
        writing.export(tmp_path / "out", Selection(Numerics.EXACT), {"exact/x": case})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--opset", 20), 2, "opset 20: the graphs can be written in versions 21 to"),
        (("--ops", "swigly"), 2, "no op swigly"),
        (("--ops", "mla_expanded", "--numerics", "fast", "--quick"), 3, "no selected case"),
    ],
)
def test_what_cannot_be_packed(
    arguments: tuple[object, ...], code: int, said: str, tmp_path: Path
) -> None:
    done = call("export-onnx", tmp_path / "out", *arguments)
    assert (done.exit_code, said in done.output) == (code, True), done.output
    assert not list(tmp_path.iterdir())


def test_a_pack_needs_a_directory_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    done = call("export-onnx", tmp_path, "--quick", "--ops", "swiglu")
    assert done.exit_code == 2
    assert "is not empty" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    done = call("export-onnx", tmp_path / "kept", "--quick", "--ops", "swiglu")
    assert done.exit_code == 2
    assert "is a file" in done.output


# --- running and judging ---


@pytest.mark.parametrize("numerics", PROFILES)
def test_onnx_runtime_passes(
    numerics: str, packs: dict[str, Path], outputs: dict[str, Path]
) -> None:
    done = call("check-onnx", packs[numerics], outputs[numerics], "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["passed"]
    levels = sum("invariant" in result["aspect"] for result in found["results"])
    unclaimed = levels if numerics == "fast" else 0
    assert found["counts"]["NOT_RUN"] == unclaimed
    assert found["counts"]["PASS"] == len(manifest_of(packs[numerics])["cases"]) - unclaimed > 100


def test_a_level_is_judged_where_it_is_claimed(
    packs: dict[str, Path], outputs: dict[str, Path]
) -> None:
    arguments = (packs["fast"], outputs["fast"], "--ops", "swiglu,topk")
    done = call("check-onnx", *arguments, "--claims", "batch-invariant", "--json")
    assert done.exit_code == 0, done.output
    by_level = {(r["aspect"], r["status"]) for r in json.loads(done.stdout)["results"]}
    assert ("batch-invariant", "PASS") in by_level
    assert ("schedule-invariant", "NOT_RUN") in by_level
    assert not {("batch-invariant", "NOT_RUN"), ("schedule-invariant", "PASS")} & by_level
    wrong = call("check-onnx", *arguments, "--claims", "batch-invariance")
    assert wrong.exit_code == 2
    assert "no level batch-invariance; levels: run-to-run" in wrong.output
    exact = call("check-onnx", packs["exact"], outputs["exact"], "--claims", "cross-backend")
    assert exact.exit_code == 2


@pytest.mark.parametrize("numerics", PROFILES)
def test_the_standards_own_evaluator_passes(
    numerics: str, packs: dict[str, Path], tmp_path: Path
) -> None:
    done = run_pack(packs[numerics], tmp_path / "out", "--with", "reference")
    assert done.returncode == 0, done.stdout + done.stderr
    judged = call("check-onnx", packs[numerics], tmp_path / "out")
    assert judged.exit_code == 0, judged.output
    assert judged.output.endswith("passed\n")


@pytest.mark.parametrize("op", ["swiglu", "dsa_select", "linear_limbs", "cache_write"])
def test_one_changed_bit_is_found_and_shown(op: str, pack: Path, results: Path) -> None:
    path = results / output_of(pack, op)
    array = tensor_at(path)
    word = array.reshape(-1).view(f"i{array.itemsize}")
    before = int(word[3])
    word[3] ^= 1
    write(array, path)
    done = call("check-onnx", pack, results, "--ops", op)
    assert done.exit_code == 1
    place = ", ".join(map(str, np.unravel_index(3, array.shape)))
    assert f"output 0 at [{place}]" in done.output
    digits, mask = array.itemsize * 2, (1 << 8 * array.itemsize) - 1
    for label, bits in (("expected", before), ("got", before ^ 1)):
        assert re.search(rf"{label} +0x{bits & mask:0{digits}x} ", done.output), done.output


def test_the_fast_profile_is_judged_by_its_bound(
    packs: dict[str, Path], outputs: dict[str, Path], tmp_path: Path
) -> None:
    cases = manifest_of(packs["fast"])["cases"]
    name = next(n for n, c in cases.items() if c["op"] == "swiglu" and n.endswith("normal/fp32"))
    folder = cases[name]["data_sets"][0]
    array = tensor_at(outputs["fast"] / folder / "output_0.pb")
    for factor, status in ((1 + 2.0**-23, "PASS"), (1 + 2.0**-12, "FAIL")):
        place = tmp_path / status / folder
        place.mkdir(parents=True)
        write((array * np.float32(factor)).astype(np.float32), place / "output_0.pb")
        done = call("check-onnx", packs["fast"], tmp_path / status, "--json")
        found = {result["id"]: result for result in json.loads(done.stdout)["results"]}
        assert found[name]["status"] == status
    assert "is beyond the bound" in found[name]["message"]


def test_a_missing_output_fails_its_cases_alone(pack: Path, results: Path) -> None:
    gone = output_of(pack, "swiglu")
    (results / gone).unlink()
    done = call("check-onnx", pack, results, "--json")
    assert done.exit_code == 1
    folder = gone.rsplit("/", 1)[0]
    cases = manifest_of(pack)["cases"]
    for result in json.loads(done.stdout)["results"]:
        if folder in cases[result["id"]]["data_sets"]:
            assert result["status"] == "FAIL"
            assert f"{gone} is missing" in result["message"]
        else:
            assert result["status"] == "PASS"


def test_outputs_of_another_form_or_none(pack: Path, results: Path) -> None:
    path = results / output_of(pack, "moe_combine")
    array = tensor_at(path)
    for wrong, said in (
        (array.astype(np.float64), "float64"),
        (array[:-1], f"[{array.shape[0] - 1}, "),
        (np.zeros(3, np.uint16), "UINT16, which no op of the contract returns"),
    ):
        write(wrong, path)
        done = call("check-onnx", pack, results, "--ops", "moe_combine")
        assert done.exit_code == 1
        assert said in done.output
    path.write_bytes(b"no tensor")
    done = call("check-onnx", pack, results, "--ops", "moe_combine")
    assert done.exit_code == 1
    assert "holds no tensor" in done.output


def test_outputs_that_nobody_asked_for(pack: Path, results: Path) -> None:
    folder = results / output_of(pack, "swiglu").rsplit("/", 1)[0]
    (folder / "output_1.pb").write_bytes((folder / "output_0.pb").read_bytes())
    done = call("check-onnx", pack, results, "--ops", "swiglu")
    assert done.exit_code == 1
    assert "results that no model of the pack gives" in done.output
    assert "output_1.pb" in done.output


def test_a_runtime_that_fails_at_a_model_is_reported_and_goes_on(
    pack: Path, tmp_path: Path
) -> None:
    broken = pack / output_of(pack, "swiglu").replace("output_0", "input_0")
    write(np.zeros((1, 2, 3, 4), np.float32), broken)
    done = run_pack(pack, tmp_path / "out")
    assert done.returncode == 1
    assert f"{broken.parent.parent.name}/{broken.parent.name}: " in done.stdout
    assert "1 failed" in done.stdout
    assert len(list((tmp_path / "out").glob("*/*"))) == len(manifest_of(pack)["data_sets"]) - 1


def test_a_provider_that_is_not_installed(pack: Path, tmp_path: Path) -> None:
    done = run_pack(pack, tmp_path / "out", "--provider", "NoSuchExecutionProvider")
    assert done.returncode == 1
    assert "no NoSuchExecutionProvider; it has" in done.stderr


# --- packs and results that cannot be judged ---


def edited(pack: Path, **changed: Any) -> None:
    """Other entries of the manifest."""
    (pack / "manifest.json").write_text(json.dumps(manifest_of(pack) | changed))


def first(pack: Path, pattern: str) -> Path:
    return min(pack.glob(pattern))


def _lose_an_input(pack: Path) -> None:
    first(pack, "*/*/input_0.pb").unlink()


def _change_an_output(pack: Path) -> None:
    path = first(pack, "*/*/output_0.pb")
    path.write_bytes(path.read_bytes()[:-1] + b"\1")


def _change_a_digest(pack: Path) -> None:
    files = manifest_of(pack)["files"]
    edited(pack, files=files | {min(files): "0" * 64})


def _add_a_file(pack: Path) -> None:
    (pack / "notes.txt").write_text("mine")


def _lower_a_model(pack: Path) -> None:
    import hashlib

    path = first(pack, "*/model.onnx")
    model = onnx.load(str(path))
    model.opset_import[0].version = 17
    onnx.save(model, str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    name = path.relative_to(pack).as_posix()
    edited(pack, files=manifest_of(pack)["files"] | {name: digest})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_lose_an_input, "the pack lacks 1 files: "),
        (_change_an_output, "not the files that the manifest lists: "),
        (_change_a_digest, "not the files that the manifest lists: "),
        (_add_a_file, "1 files that do not belong: notes.txt"),
        (_lower_a_model, "asks for ai.onnx 17; the manifest says opset 21"),
        (
            lambda pack: edited(pack, opset=17),
            "opset 17: the graphs can be written in versions 21 to",
        ),
        (lambda pack: edited(pack, format=99), "the pack has format 99, this suite reads 1"),
        (
            lambda pack: edited(pack, suite_version="0.0.1"),
            "made by suite 0.0.1, contract 1; this is",
        ),
        (lambda pack: edited(pack, cases=[]), "is not as the suite writes it"),
        (lambda pack: (pack / "manifest.json").write_text("{"), "is not as the suite writes it"),
        (lambda pack: (pack / "manifest.json").unlink(), "holds no manifest.json: no whole pack"),
    ],
)
def test_a_pack_that_is_not_whole(spoil: Any, said: str, pack: Path, results: Path) -> None:
    spoil(pack)
    done = call("check-onnx", pack, results)
    assert done.exit_code == 1
    assert said in done.output, done.output


def test_results_that_are_not_there(pack: Path, tmp_path: Path) -> None:
    done = call("check-onnx", pack, tmp_path / "nowhere")
    assert done.exit_code == 2
    assert "is no directory; expected the outputs" in done.output
    (tmp_path / "empty").mkdir()
    done = call("check-onnx", pack, tmp_path / "empty")
    assert done.exit_code == 3
    assert "holds no output of the pack" in done.output
    done = call("check-onnx", tmp_path / "no-pack", tmp_path / "empty")
    assert done.exit_code == 2


def test_an_op_that_the_pack_has_not(pack: Path, results: Path) -> None:
    done = call("check-onnx", pack, results, "--ops", "rope")
    assert done.exit_code == 2
    assert "the pack has no rope; it has" in done.output
