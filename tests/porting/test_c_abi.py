"""A backend that is a library in C: the sample passes its ops, and a bad library is told apart."""

import gc
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from generated import Make, Package, opened, quick

from glm5_hal import BackendUnavailable, ContractError, HalError, Unsupported, WeightRole, ops
from glm5_hal.backends.c_abi.library import Device, Library, LibraryError
from glm5_hal.backends.c_abi.signatures import NOT_IN_ABI, signature_of
from glm5_hal.contract import OPS
from glm5_hal.plan import resolve
from glm5_hal.porting.skeleton import Base
from glm5_hal.porting.unwritten import place_of

# the sample is a library in C: nothing to load without a compiler
if shutil.which("gcc") is None or shutil.which("make") is None:
    pytest.skip("gcc and make are needed", allow_module_level=True)

Built = Callable[..., Package]
"""Writes a package and builds its library, with the source changed as the arguments say."""


@pytest.fixture
def built(make: Make) -> Built:
    def build(*changes: tuple[str, str]) -> Package:
        package = make(Base.C_ABI)
        source = package.source / "native" / f"{package.name}.c"
        text = source.read_text()
        for before, after in changes:
            assert text.count(before) == 1, before
            text = text.replace(before, after)
        source.write_text(text)
        command = ["make", "-s", "-C", str(source.parent), "CC=gcc"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return package

    return build


def library_of(package: Package) -> Path:
    return package.source / "native" / f"lib{package.name}.so"


def test_the_header_declares_every_op_as_the_contract_has_it(make: Make) -> None:
    header = (make(Base.C_ABI).source / "native" / "glm5_hal.h").read_text()
    code = " ".join(re.sub(r"/\*.*?\*/", "", header, flags=re.S).split())
    for name in OPS:
        assert (name in NOT_IN_ABI) is (f"glm5_{name}(" not in code)
        if name not in NOT_IN_ABI:
            assert signature_of(name).declaration in code


def test_the_header_is_c_and_cpp(make: Make) -> None:
    folder = make(Base.C_ABI).source / "native"
    for compiler, standard in (("gcc", "c11"), ("g++", "c++17")):
        if shutil.which(compiler) is None:
            continue
        language = "c" if compiler == "gcc" else "c++"
        flags = [f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"]
        command = [compiler, *flags, "-x", language, "-include", "glm5_hal.h", "/dev/null"]
        subprocess.run(command, cwd=folder, check=True)


@pytest.mark.parametrize("op", ["topk", "rms_norm", "linear"])
def test_the_sample_passes_its_ops(op: str, built: Built) -> None:
    assert quick(op, opened(built().name)) == {}


FURTHER = ("embedding", "cache_write", "cache_read", "index_scores", "moe_dispatch")


@pytest.mark.parametrize("op", FURTHER)
def test_every_kind_of_argument_arrives(op: str, built: Built) -> None:
    listed = ", ".join(f'"{name}"' for name in FURTHER)
    source = (Path(__file__).parent / "further_ops.c").read_text()
    end = "/* --- linear --- */"
    package = built(('"linear"};', f'"linear", {listed}}};'), (end, f"{source}\n{end}"))
    assert quick(op, opened(package.name)) == {}


def test_other_ops_say_where_to_write_them(built: Built) -> None:
    package = built()
    runtime = opened(package.name)
    assert runtime.plan.ops["mla"].source == "default"
    assert runtime.plan.ops["swiglu"].source == "unsupported"
    place = package.source / "native" / f"{package.name}.c"
    with (
        runtime,
        pytest.raises(Unsupported, match=f"not written yet: swiglu; write it in {place}, spec: "),
    ):
        ops.swiglu(torch.zeros(1, 2))


def test_an_op_may_be_written_in_python(built: Built) -> None:
    package = built()
    module = package.source / "backend.py"
    method = """
    def swiglu(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.double().chunk(2, dim=-1)
        return (torch.nn.functional.silu(gate) * up).to(gate_up.dtype)
"""
    text = module.read_text().replace(
        "from glm5_hal.back", "import torch\nfrom torch import Tensor\n\nfrom glm5_hal.back"
    )
    module.write_text(text + method)
    runtime = opened(package.name)
    backend = type(runtime.backend)
    assert runtime.plan.ops["swiglu"].source == runtime.plan.ops["topk"].source == "native"
    assert place_of(backend, "swiglu").startswith(f"{module}:")
    assert place_of(backend, "topk") == str(package.source / "native" / f"{package.name}.c")
    assert quick("swiglu", runtime) == {}


def test_the_exact_profile_is_not_offered_before_it_is_written(built: Built) -> None:
    with pytest.raises(HalError, match="offers fast"):
        resolve(built().name, "exact", {})


def test_the_library_is_told_the_profile(built: Built) -> None:
    topk_alone = 'if (profile == GLM5_EXACT) return strcmp(op, "topk") == 0;'
    package = built(
        ("    if (profile != GLM5_FAST) return 0;", f"    {topk_alone}"),
        (
            '    if (profile != GLM5_FAST) return fail("profile',
            '    if (profile > 1) return fail("p',
        ),
    )
    module = package.source / "backend.py"
    text = module.read_text().replace(
        "from glm5_hal.back", "from dataclasses import replace\n\nfrom glm5_hal.back"
    )
    offered = "    capabilities = replace(CAbiBackend.capabilities, profiles=frozenset(Numerics))\n"
    module.write_text(f"from glm5_hal import Numerics\n{text}{offered}")
    runtime = opened(package.name, "exact")
    assert runtime.plan.ops["topk"].source == "native"
    assert runtime.plan.ops["linear"].source == "unsupported"
    assert quick("topk", runtime) == {}
    assert opened(package.name).plan.ops["linear"].source == "native"


def test_gaps_between_rows_arrive_as_strides(built: Built) -> None:
    runtime = opened(built().name)
    wide = torch.randn(6, 20, generator=torch.Generator().manual_seed(1))
    x, w = wide[:, 3:15], torch.randn(5, 12, generator=torch.Generator().manual_seed(2))
    weight = runtime.prepare_weight(WeightRole.LINEAR, w)
    with runtime:
        found = ops.linear(x, weight)
        assert found.equal(ops.linear(x.contiguous(), weight))
        turned = ops.linear(wide.T[:12].contiguous().T, weight)  # columns, not rows, lie together
        assert turned.equal(ops.linear(wide[:, :12], weight))
        every_other = ops.linear(wide[::3, :12], weight)  # more gaps than elements
        assert every_other.equal(ops.linear(wide[:, :12], weight)[::3])
    assert (found.double() - x.double() @ w.double().T).abs().max() < 1e-5


def test_no_rows_and_no_dtype_are_fine(built: Built) -> None:
    runtime = opened(built().name)
    weight = runtime.prepare_weight(WeightRole.LINEAR, torch.ones(3, 4))
    with runtime:
        assert ops.linear(torch.ones(0, 4), weight).shape == (0, 3)
        assert ops.linear(torch.ones(1, 4), weight, torch.float32).tolist() == [[4.0] * 3]
        narrow = ops.linear(torch.ones(1, 4, dtype=torch.bfloat16), weight)
    assert narrow.dtype == torch.bfloat16


def test_a_failed_call_says_what_the_library_says_and_the_next_one_runs(built: Built) -> None:
    runtime = opened(built().name)
    scores = torch.zeros(2, 3)
    with runtime:
        with pytest.raises(LibraryError, match=r"glm5_topk of .* failed \(1\): lengths\[1\] is 7"):
            ops.topk(scores, torch.tensor([3, 7], dtype=torch.int32), 2)
        assert ops.topk(scores, torch.tensor([3, 1], dtype=torch.int32), 2).tolist() == [
            [0, 1],
            [0, -1],
        ]


def test_what_the_interface_has_no_word_for_is_refused(built: Built) -> None:
    runtime = opened(built().name)
    with pytest.raises(ContractError, match="this linear weight is float64, the C interface has"):
        runtime.prepare_weight(WeightRole.LINEAR, torch.ones(2, 2).double())
    with pytest.raises(ContractError, match="5 dimensions, the C interface 4"):
        runtime.prepare_weight(WeightRole.LINEAR, torch.ones(1, 1, 1, 1, 1))


COUNTED = (
    ("int32_t glm5_alloc(", "int64_t glm5_test_live(void);\n"
     "static int64_t live;\nint64_t glm5_test_live(void) { return live; }\n"
     "int32_t glm5_alloc("),
    ("    *data = malloc(bytes);", "    live++;\n    *data = malloc(bytes);"),
    ("    free(data);", "    live--;\n    free(data);"),
)  # fmt: skip


def test_what_is_copied_in_is_freed_behind_the_call(built: Built) -> None:
    package = built(*COUNTED)
    runtime = opened(package.name)
    backend = type(runtime.backend)
    import ctypes

    live = backend._loaded().function("glm5_test_live", ctypes.c_int64, [])  # type: ignore[attr-defined]
    weight = runtime.prepare_weight(WeightRole.LINEAR, torch.ones(3, 4))
    before = live()
    assert before > 0
    with runtime:
        for _ in range(3):
            ops.linear(torch.ones(2, 4), weight)
        with pytest.raises(LibraryError):
            ops.topk(torch.zeros(1, 3), torch.tensor([7], dtype=torch.int32), 2)
    gc.collect()
    assert live() == before
    del weight
    gc.collect()
    assert live() == before - 1


BROKEN = {
    "another version": (
        ("int32_t glm5_abi(void) { return GLM5_HAL_ABI; }", "int32_t glm5_abi(void) { return 2; }"),
        "speaks version 2 of glm5_hal.h, this glm5-hal version 1: build it again",
    ),
    "no device": (
        ("int32_t glm5_device_count(void) { return 1; }",
         'int32_t glm5_device_count(void) { fail("the driver is not loaded"); return 0; }'),
        "finds no device: the driver is not loaded",
    ),
    "no function": (
        ("int32_t glm5_synchronize(", "int32_t glm5_wait(glm5_stream *);\nint32_t glm5_wait("),
        "exports no glm5_synchronize, which glm5_hal.h names",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_library_that_cannot_serve_is_unavailable(fault: str, built: Built) -> None:
    change, reason = BROKEN[fault]
    with pytest.raises(BackendUnavailable, match=re.escape(reason)):
        opened(built(change).name)


def test_a_library_that_is_not_built_or_not_one_is_unavailable(make: Make) -> None:
    package = make(Base.C_ABI)
    with pytest.raises(BackendUnavailable, match=r"is not built: make -C "):
        opened(package.name)
    library_of(package).write_bytes(b"no library")
    with pytest.raises(BackendUnavailable, match="does not load: "):
        opened(package.name)


def test_an_op_that_is_promised_must_be_exported(built: Built) -> None:
    package = built(('"linear"};', '"linear", "swiglu"};'))
    with pytest.raises(LibraryError, match=r"exports no glm5_swiglu, which glm5_hal\.h names"):
        opened(package.name)


def test_failures_of_memory_and_of_opening_are_told(built: Built) -> None:
    null = built(("    *data = malloc(bytes);\n    if (*data == NULL) return", "    *data = NULL;\n"
                  "    return 0;\n    if (*data == NULL) return"))  # fmt: skip
    with pytest.raises(LibraryError, match="gave NULL for 48 bytes and returned 0"):
        opened(null.name).prepare_weight(WeightRole.LINEAR, torch.ones(3, 4))
    full = built(("    *data = malloc(bytes);", "    *data = NULL;"))
    with pytest.raises(LibraryError, match=r"glm5_alloc of .* failed \(1\): no memory for 48"):
        opened(full.name).prepare_weight(WeightRole.LINEAR, torch.ones(3, 4))
    library = Library(library_of(full))
    with pytest.raises(LibraryError, match="device 3 does not exist: there is one"):
        Device(library, 3, 0)
