"""`doctor` and `run` on a machine without the chosen chip: what is missing, what to do, exit 3."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_names import Call

INSTALL = "is not installed: "
ABSENT: dict[str, tuple[str, str]] = {
    # why it cannot run, and one of the settings that it would need
    "cuda": (
        "this torch is built without CUDA; install one with it"
        if torch.version.cuda is None
        else 'triton is not installed: pip install "glm5-hal[triton]"',
        "CUBLAS_WORKSPACE_CONFIG: :4096:8 or :16:8",
    ),
    "ascend": (f"torch_npu {INSTALL}pip install torch-npu", "HCCL_DETERMINISTIC: true or strict"),
    "moore_threads": (f"torch_musa {INSTALL}take the vendor's wheel", "MUBLAS_WORKSPACE_CONFIG"),
    "hygon": ("this torch is not built for HIP: install", "ROCBLAS_DEFAULT_ATOMICS_MODE: 0"),
    "cambricon": (
        f"torch_mlu {INSTALL}take the vendor's wheel",
        "TORCH_MLU_GPU_MIGRATION: not set",
    ),
    "kunlun": (f"torch_xmlir {INSTALL}it comes with", "XMLIR_ENABLE_FAST_FC: not set"),
    "metax": ("this torch is not built for MACA: install", "torch.backends.cudnn.allow_tf32"),
    "enflame": (f"torch_gcu {INSTALL}it comes with", "GLM5_HAL_BACKEND"),
    "onnxruntime": (
        'onnx and onnxruntime are not installed: pip install "glm5-hal[onnx]"',
        "GLM5_HAL_ONNX_PROVIDER",
    ),
    "triton-interpret": (f'triton {INSTALL}pip install "glm5-hal[triton]"', "GLM5_HAL_BACKEND"),
}
HIDDEN = (
    *("triton", "onnx", "onnxruntime", "torch_npu", "torch_musa"),
    *("torch_mlu", "torch_xmlir", "torch_gcu"),
)
COMMANDS = """
import json, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None  # as if it were not installed
from glm5_hal.cli import main
for arguments in json.loads(sys.argv[2]):
    sys.argv = ["glm5-hal", *arguments]
    try:
        main()
    except SystemExit as end:
        print("exit", end.code, flush=True)
        print(flush=True, file=sys.stderr)
"""


@pytest.mark.parametrize("name", ABSENT)
def test_what_is_missing_is_said_with_the_next_step(name: str, checkpoint: Path) -> None:
    reason, setting = ABSENT[name]
    asked = [
        ["doctor"],
        ["run", str(checkpoint), "--input-ids", "no.json", "--max-new-tokens", "1"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(HIDDEN), json.dumps(asked)],
        env={**os.environ, "GLM5_HAL_BACKEND": name},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    doctor, run = done.stdout.split("exit 3\n")[:2]
    assert done.stdout.count("exit ") == 2, done.stdout
    assert f"selected: {name}, cannot run: {reason}" in doctor
    rows = [line for line in doctor.splitlines() if line.startswith(name) and " no " in line]
    assert any(reason in row for row in rows)
    assert setting in doctor
    assert run == ""
    assert f"error: backend '{name}' cannot run here: {reason}" in done.stderr
    assert "`glm5-hal doctor` shows every backend" in done.stderr


def test_every_backend_that_may_be_absent_is_in_the_table(call: Call) -> None:
    reports = json.loads(call("backends", "--json").stdout)
    ours = {"cpu", "cpu-limbs", "c-abi"}
    assert {report["name"] for report in reports} - ours == set(ABSENT)


def test_the_settings_of_what_nobody_chose_are_not_listed(call: Call) -> None:
    result = call("doctor")
    assert result.exit_code == 0
    assert "HCCL_DETERMINISTIC" not in result.stdout


def test_a_wrong_setting_is_told_with_the_line_that_mends_it(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HCCL_DETERMINISTIC", "false")
    monkeypatch.setenv("TORCH_TRANSFER_TO_NPU", "1")
    lines = call("doctor").stdout.splitlines()  # whoever is chosen: it would stop the chip's run
    assert "fix: export HCCL_DETERMINISTIC=true" in lines
    assert "fix: unset TORCH_TRANSFER_TO_NPU" in lines
    assert any(
        line.startswith("HCCL_DETERMINISTIC: true or strict") and "wrong: false" in line
        for line in lines
    )


def test_what_was_read_before_it_was_set_is_too_late(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setenv("GLM5_HAL_BACKEND", "cuda")
    result = call("doctor")
    assert result.exit_code == 3
    lines = result.stdout.splitlines()
    assert "fix: export CUBLAS_WORKSPACE_CONFIG=:4096:8, before python starts" in lines
    assert any(
        line.startswith("CUBLAS_WORKSPACE_CONFIG: :4096:8") and "too late" in line for line in lines
    )


def test_variables_of_other_backends_are_listed_where_they_are_set(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "GLM5_HAL_ONNX_PROVIDER" not in call("doctor").stdout
    monkeypatch.setenv("GLM5_HAL_ONNX_PROVIDER", "CPU")
    assert "GLM5_HAL_ONNX_PROVIDER" in call("doctor").stdout
    environment = json.loads(call("doctor", "--json").stdout)["environment"]
    (provider,) = [s for s in environment if s["name"] == "GLM5_HAL_ONNX_PROVIDER"]
    assert provider["backends"] == ["onnxruntime"]
