"""`bisect`: what it says where nothing is wrong, of faults of other kinds, and of mistakes."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import planted_now
import pytest
import torch
from conftest import Call
from safetensors.torch import load_file, save_file
from torch import Tensor

from glm5_hal import Backend, Runtime, Weight, open_runtime, registry
from glm5_hal.backends.cpu.profiles import exact_backend
from glm5_hal.conformance.bisect import layout, reducing
from glm5_hal.conformance.bisect.asking import Asker
from glm5_hal.conformance.bisect.explaining import Verdict
from glm5_hal.conformance.bisect.planting import mutant_in, plant, runtime_of
from glm5_hal.conformance.bisect.running import Prompts, bisect
from glm5_hal.conformance.compare import words
from glm5_hal.conformance.mutants import mutants
from glm5_hal.conformance.subjects import Variant, variants
from glm5_hal.model.glm5 import GLM5
from glm5_hal.model.load import load_model

SEQUENCES = [[(7 * place * place + 3 * place) % 500 for place in range(24)]]


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """Token ids of which the oracles, which walk token by token, are quick."""
    path = tmp_path / "short.json"
    path.write_text(json.dumps([SEQUENCES[0][:18]]))
    return path


@pytest.fixture
def load(tiny: Path) -> Callable[[Runtime], GLM5]:
    return lambda runtime: load_model(tiny, runtime, mtp=False, positions=64)


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Backend]], None]:
    """Let ``--backend planted`` be some class."""

    def choose(backend: type[Backend]) -> None:
        monkeypatch.setattr(planted_now, "Planted", backend)
        monkeypatch.setattr(registry, "entry_points", planted_now.found)

    return choose


def test_no_difference(call: Call, tiny: Path, ids: Path, tmp_path: Path) -> None:
    result = call("bisect", tiny, "--input-ids", ids, "--backend", "cpu-limbs", "--chunk", 30)
    assert result.exit_code == 0
    assert "as cpu does" in result.stdout
    assert "its own run of the model gives the same bytes" in result.stdout
    assert not (tmp_path / "glm5-bisect").exists()


def test_three_lines_then_the_table(
    call: Call, plant: Callable[[str, int], None], tiny: Path, ids: Path, tmp_path: Path
) -> None:
    plant("rope-half", 1)
    result = call("bisect", tiny, "--input-ids", ids, "--backend", "planted", "--out", "cases")
    guilty, bits, breaks, empty, *rest = result.stdout.splitlines()
    assert guilty.startswith("guilty    layer1.rope#0 on planted; 4 of ")
    assert bits.startswith("bits      output 0 at [")
    assert "cpu 0x" in bits
    assert "planted 0x" in bits
    assert breaks.startswith("breaks    ROPE-1: it answers as if interleaved were")
    assert not empty
    assert "1 of 45 tokens is enough:" in " ".join(rest)
    columns = next(line for line in rest if line.startswith("place")).split()
    assert columns == ["place", "op", "calls", "first", "at", "ULP", "elements"]
    assert rest[-1].split()[:4] == ["layer1", "rope", "4", "of"]
    (case,) = (tmp_path / "cases").iterdir()
    assert f"glm5-hal bisect --replay cases/{case.name} --backend planted" in result.stdout


def test_a_later_fault_is_not_hidden_by_the_first(load: Callable[[Runtime], GLM5]) -> None:
    first = plant(exact_backend(), "swiglu", "layer0", lambda sound, gate_up: sound(-gate_up))
    both = plant(
        first, "linear", "layer3", lambda sound, x, w, out_dtype=None: -sound(x, w, out_dtype)
    )
    found = bisect(runtime_of(both), open_runtime("cpu", "exact"), load, Prompts(SEQUENCES))
    assert {(f.site.place, f.site.op) for f in found.findings.broken} == {
        ("layer0", "swiglu"),
        ("layer3", "linear"),
    }
    assert found.findings.guilty is found.findings.broken[0]


@pytest.mark.parametrize(
    ("name", "op"),
    [
        ("operands-not-flushed", None),
        ("rope-in-double", None),
        ("route-scale-over-total", "moe_route"),
        ("attention-library-exp2", "latent_attention"),
        ("attention-float-sums", "latent_attention"),
    ],
)
def test_mutants_of_the_suite_in_one_layer(
    load: Callable[[Runtime], GLM5], name: str, op: str | None
) -> None:
    """A fault that this run's numbers do not show is none; any other is found where it is."""
    judged = runtime_of(mutant_in(mutants()[name], "layer2"))
    found = bisect(judged, open_runtime("cpu", "exact"), load, Prompts(SEQUENCES))
    if op is None:
        assert not found.differs
        return
    guilty = found.findings.guilty
    assert guilty is not None
    assert (guilty.site.place, guilty.site.op) == ("layer2", op)
    assert found.explanation is not None
    assert found.explanation.verdict is Verdict.EXPECTED


def test_what_only_a_run_of_its_own_shows(
    call: Call, register: Callable[[type[Backend]], None], tiny: Path, ids: Path
) -> None:
    class FreedTooEarly(exact_backend()):  # type: ignore[misc]
        """Takes the memory of the sum that it returned last for scratch."""

        name = "planted"
        _last: Tensor | None = None

        def rms_norm(
            self, x: Tensor, w: Weight, eps: float, residual: Tensor | None = None
        ) -> tuple[Tensor, Tensor]:
            y, h = super().rms_norm(x, w, eps, residual)
            if residual is None and self._last is not None:
                self._last[0, 0] = 1.0
            self._last = None if residual is None else h
            return y, h

    register(FreedTooEarly)
    result = call("bisect", tiny, "--input-ids", ids, "--backend", "planted")
    assert result.exit_code == 1
    guilty, bits, breaks = result.stdout.splitlines()[:3]
    assert "layer1.rms_norm#2 in a run of planted's own" in guilty
    assert "inputs differ already" in bits
    assert "GUARD-2" in breaks


def test_an_input_that_is_changed(load: Callable[[Runtime], GLM5]) -> None:
    def in_place(sound: Callable[..., object], gate_up: Tensor) -> object:
        result = sound(gate_up)
        gate_up.zero_()
        return result

    judged = runtime_of(plant(exact_backend(), "swiglu", "layer1", in_place))
    found = bisect(judged, open_runtime("cpu", "exact"), load, Prompts(SEQUENCES))
    assert found.explanation is not None
    assert found.explanation.reason.requirements == ("GUARD-1",)
    assert "gate_up" in found.explanation.reason.text


def test_strides_are_part_of_the_input(load: Callable[[Runtime], GLM5]) -> None:
    def blind(
        sound: Callable[..., Tensor], x: Tensor, positions: Tensor, table: Weight, interleaved: bool
    ) -> Tensor:
        """Reads rows as if there were no gaps between them."""
        flat = x.as_strided((x.numel(),), (1,)).view(x.shape)
        return sound(flat, positions, table, interleaved)

    judged = runtime_of(plant(exact_backend(), "rope", "layer1", blind))
    found = bisect(judged, open_runtime("cpu", "exact"), load, Prompts(SEQUENCES))
    assert found.explanation is not None
    assert found.explanation.reason.requirements == ("RUN-4",)


def test_other_bytes_each_time(load: Callable[[Runtime], GLM5]) -> None:
    calls = 0

    def racing(sound: Callable[..., Tensor], gate_up: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        result = sound(gate_up)
        words(result)[0, 0] ^= calls
        return result

    judged = runtime_of(plant(exact_backend(), "swiglu", "layer1", racing))
    found = bisect(judged, open_runtime("cpu", "exact"), load, Prompts(SEQUENCES))
    assert found.explanation is not None
    assert found.explanation.reason.requirements == ("RUN-1",)


def test_the_other_backend_may_be_the_one_at_fault(
    call: Call, plant: Callable[[str, int], None], tiny: Path, ids: Path
) -> None:
    plant("exchanged", 0)
    run = ("bisect", tiny, "--input-ids", ids, "--backend", "cpu", "--against", "planted")
    result = call(*run)
    assert result.exit_code == 1
    assert "the definition of the op gives cpu's bytes: planted is at fault" in result.stdout


def test_a_backend_that_lacks_ops_is_judged_on_the_others(
    call: Call, register: Callable[[type[Backend]], None], tiny: Path, ids: Path
) -> None:
    class Half(exact_backend()):  # type: ignore[misc]
        name = "planted"
        latent_attention = Backend.latent_attention
        swiglu = Backend.swiglu

    register(Half)
    result = call("bisect", tiny, "--input-ids", ids, "--backend", "planted")
    assert result.exit_code == 3
    assert "of the others none differs" in result.stdout
    assert "swiglu: not supported: not implemented by backend 'planted'" in result.stdout
    back = call("bisect", tiny, "--input-ids", ids, "--backend", "cpu", "--against", "planted")
    assert back.exit_code == 3
    assert "cannot run the model itself" in back.stderr


def test_nothing_is_answered(
    call: Call, register: Callable[[type[Backend]], None], tiny: Path, ids: Path
) -> None:
    class Nothing(Backend):
        name = "planted"
        capabilities = exact_backend().capabilities
        is_available = exact_backend().is_available
        device = torch.device("cpu")

    register(Nothing)
    result = call("bisect", tiny, "--input-ids", ids, "--backend", "planted")
    assert result.exit_code == 3
    assert "answers no call of this model" in result.stderr


def test_nan_is_told_from_a_number(
    call: Call, register: Callable[[type[Backend]], None], tiny: Path, ids: Path
) -> None:
    def spoiled(sound: Callable[..., Tensor], gate_up: Tensor) -> Tensor:
        result = sound(gate_up)
        result[3, 5] = math.nan
        return result

    register(plant(exact_backend(), "swiglu", "layer0", spoiled))
    result = call("bisect", tiny, "--input-ids", ids, "--backend", "planted", "--json")
    guilty = json.loads(result.stdout)["guilty"]
    assert guilty["site"] == "layer0.swiglu#0"
    assert guilty["difference"]["index"] == [3, 5]
    assert guilty["difference"]["found"] == "0x7fc0 (nan)"


def test_nan_in_the_checkpoint_is_no_difference(
    call: Call, tiny: Path, ids: Path, tmp_path: Path
) -> None:
    spoiled = tmp_path / "spoiled"
    spoiled.mkdir()
    for file in tiny.iterdir():
        if file.suffix != ".safetensors":
            (spoiled / file.name).write_bytes(file.read_bytes())
            continue
        tensors = load_file(file)
        name = "model.layers.1.self_attn.q_a_proj.weight"
        tensors[name][0, 0] = math.nan
        save_file(tensors, spoiled / file.name, metadata={"format": "pt"})
    result = call("bisect", spoiled, "--input-ids", ids, "--backend", "cpu")
    assert result.exit_code == 0, result.stdout


# --- the fast profile ---


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("attention-scale-low-bits", "layer2.mla#0/latent_attention#0"),
        ("linear-tf32", "layer2.linear#0"),
        ("rope-bf16-table", "layer2.rope#0"),
        ("swiglu-halves-swapped", "layer2.swiglu#0"),
        ("route-no-bias", "layer2.moe_route#0"),
        ("draw-never-changes", None),
    ],
)
def test_growth_begins_where_the_fault_is(
    call: Call,
    register: Callable[[type[Backend]], None],
    tiny: Path,
    short: Path,
    name: str,
    site: str | None,
) -> None:
    register(mutant_in(mutants()[name], "layer2"))
    run = ("bisect", tiny, "--input-ids", short, "--backend", "planted", "--numerics", "fast")
    result = call(*run, "--dtype", "fp32", "--json")
    document = json.loads(result.stdout)
    assert document["begins"] == site
    assert result.exit_code == (0 if site is None else 1)


def test_the_ranking_in_words(
    call: Call, register: Callable[[type[Backend]], None], tiny: Path, short: Path
) -> None:
    register(mutant_in(mutants()["linear-tf32"], "layer2"))
    run = ("bisect", tiny, "--input-ids", short, "--backend", "planted", "--numerics", "fast")
    lines = call(*run, "--dtype", "fp32").stdout.splitlines()
    assert lines[0].startswith("most      layer2.linear#")
    assert lines[1].startswith("begins    layer2.linear#0: planted ")
    assert "1 of 61 ops are beyond the bound" in lines[2]
    assert lines[6].split()[:3] == ["layer2", "linear", "10"]


# --- parts ---


@pytest.mark.parametrize("op", ["linear", "grouped_linear", "moe_combine", "rope", "topk"])
def test_rows_are_taken_with_what_belongs_to_them(op: str) -> None:
    """The rows of a call are those of the whole call, and halving finds the ones that matter."""
    runtime = Asker(open_runtime("cpu", "exact"))
    for v in variants(op, quick_only=True, smallest_tokens=5, dtypes=("bf16",))[:1]:
        call = Variant(op, v.shape, v.kind, v.dtype).call()
        whole = runtime.answer(call)
        count = reducing.rows(call)
        kept = torch.arange(count)[1::2]
        for part, all_of_it in zip(runtime.answer(reducing.take(call, kept)), whole, strict=True):
            assert torch.equal(part, all_of_it[kept])
        wanted = whole[0][[2, count - 1]]

        def holds_both(smaller: object, wanted: Tensor = wanted) -> bool:
            rows = runtime.answer(smaller)[0]  # type: ignore[arg-type]
            return all(bool((rows == row).flatten(1).all(1).any()) for row in wanted)

        assert reducing.rows(reducing.reduce(call, holds_both)) == len(torch.unique(wanted, dim=0))


def test_layouts_survive_a_copy() -> None:
    base = torch.randn(5, 4, 8)
    for view in (base, base[..., 2:6], base[:, 1], base.transpose(0, 1), base[:, :1]):
        copied = layout.copy(view)
        assert torch.equal(copied, view)
        sizes = [n for n, size in enumerate(view.shape) if size > 1]
        assert [copied.stride(n) for n in sizes] == [view.stride(n) for n in sizes]
    assert layout.copy(base[0].expand(3, 4, 8)).is_contiguous()
    assert layout.copy(base[:0, 1]).shape == (0, 8)


# --- mistakes ---


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--backend", "cqu"), 2, "unknown backend 'cqu'; registered: "),
        (("--backend", "cpu-limbs", "--numerics", "fast"), 2, "offers exact"),
        ((), 2, "give the backend to judge with --backend NAME"),
        (("--backend", "cpu", "--input-ids", "none.json"), 2, "none.json cannot be read"),
        (("--backend", "cpu", "--input-ids", "wild.json"), 2, "token id 512 at place 2 is outside"),
        (("--backend", "cpu", "--replay", "x"), 2, "--replay takes no DIR"),
        (("--backend", "cpu", "--trace", "x", "--trace", "y"), 2, "--trace takes no DIR"),
        (("--backend", "cpu", "--out", "ids.json"), 2, "--out ids.json is a file"),
    ],
)
def test_what_is_asked_wrongly(
    call: Call,
    tiny: Path,
    ids: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    (tmp_path / "wild.json").write_text("[[1, 2, 512]]")
    given = () if "--input-ids" in options else ("--input-ids", ids)
    result = call("bisect", tiny, *given, *options)
    assert result.exit_code == code
    assert message in result.stderr


def test_nothing_to_do(call: Call, tiny: Path) -> None:
    for arguments in ((), (tiny, "--backend", "cpu")):
        result = call("bisect", *arguments)
        assert result.exit_code == 2
        assert "give a checkpoint and --input-ids" in result.stderr


def test_a_backend_without_the_exact_profile(
    call: Call, register: Callable[[type[Backend]], None], tiny: Path, ids: Path
) -> None:
    class FastOnly(Backend):
        name = "planted"
        is_available = exact_backend().is_available
        capabilities = type(exact_backend().capabilities)()

    register(FastOnly)
    result = call("bisect", tiny, "--input-ids", ids, "--backend", "planted")
    assert result.exit_code == 2
    assert "GLM5_HAL_NUMERICS=exact: backend 'planted' offers fast" in result.stderr


def test_what_is_no_case(call: Call, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no tensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other")
    for name, message in (
        ("none", "cannot be read as safetensors"),
        ("text", "cannot be read as safetensors"),
        ("other", "is not a case of `glm5-hal bisect`"),
    ):
        result = call("bisect", "--replay", tmp_path / name, "--backend", "cpu")
        assert result.exit_code == 2
        assert message in result.stderr
