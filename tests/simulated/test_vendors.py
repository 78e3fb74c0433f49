"""Each vendor's backend, as it is, on a simulated device of that vendor."""

import json
import os
import subprocess
import sys

import pytest

from glm5_hal.backends.torch_triton.backend import missing_triton

if missing := missing_triton():
    pytest.skip(missing, allow_module_level=True)

VENDORS = ("ascend", "cambricon", "enflame", "hygon", "kunlun", "metax", "moore_threads")
SETTINGS = {"TORCH_GCU_ENABLE_INT64_AND_UINT64": "true"}
"""What must be set before Python starts."""

COMPUTES = """
import json, torch
from glm5_hal import ops, open_runtime
runtime = open_runtime(None, "exact")
backend = runtime.backend
scores = torch.tensor([[1.0, 3.0, 3.0, 0.5], [2.0, 2.0, 2.0, 9.0]])
lengths = torch.tensor([4, 3], dtype=torch.int32)
with runtime:
    found = ops.topk(backend.to_device(scores), backend.to_device(lengths), 2)
print(json.dumps({
    "device": str(found.device),
    "found": backend.to_host(found).tolist(),
    "simulated": runtime.plan.simulated,
    "blocked": [setting.name for setting in type(backend).settings() if setting.blocks],
}))
"""


def started(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", *command],
        env={**os.environ, **SETTINGS, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_vendors_backend_computes_on_its_simulated_device(vendor: str) -> None:
    done = started("-c", COMPUTES, GLM5_HAL_BACKEND=f"{vendor}:1", GLM5_HAL_SIMULATED="1")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["device"].endswith(":1")
    assert found["found"] == [[1, 2], [0, 1]]
    assert found["simulated"] is True
    assert found["blocked"] == []


def test_what_is_simulated_is_called_so() -> None:
    done = started(
        *("-m", "glm5_hal", "plan", "--json"),
        GLM5_HAL_BACKEND="metax",
        GLM5_HAL_SIMULATED="1",
    )
    assert json.loads(done.stdout)["simulated"] is True


def test_without_the_variable_there_is_no_device() -> None:
    done = started("-m", "glm5_hal", "plan", GLM5_HAL_BACKEND="metax")
    assert done.returncode == 3
    assert "not built for MACA" in done.stderr


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"GLM5_HAL_SIMULATED": "yes"}, "the only value is 1"),
        ({"GLM5_HAL_SIMULATED": "1", "GLM5_HAL_BACKEND": "cpu"}, "no such file"),
        (
            {
                "GLM5_HAL_SIMULATED": "1",
                "GLM5_HAL_BACKEND": "ascend",
                "ASCEND_RT_VISIBLE_DEVICES": "1,0",
            },
            "export ASCEND_RT_VISIBLE_DEVICES=0,1",
        ),
        (
            {
                "GLM5_HAL_SIMULATED": "1",
                "GLM5_HAL_BACKEND": "metax",
                "MACA_VISIBLE_DEVICES": "1",
            },
            "export CUDA_VISIBLE_DEVICES=1",
        ),
        (
            {
                "GLM5_HAL_SIMULATED": "1",
                "GLM5_HAL_BACKEND": "kunlun",
                "XMLIR_ENABLE_FAST_FC": "1",
            },
            "unset XMLIR_ENABLE_FAST_FC",
        ),
    ],
)
def test_what_is_wrong_is_told(environment: dict[str, str], message: str) -> None:
    done = started("-m", "glm5_hal", "plan", **environment)
    assert done.returncode in (2, 3)
    assert message in done.stderr
