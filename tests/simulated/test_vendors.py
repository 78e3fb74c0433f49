"""Each vendor's backend, as it is, on a simulated device of that vendor."""

import json
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from inside import compiling

from glm5_hal.backends.torch_triton.backend import missing_triton

if missing := missing_triton():
    pytest.skip(missing, allow_module_level=True)

VENDORS = ("ascend", "cambricon", "enflame", "hygon", "kunlun", "metax", "moore_threads")

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
        env={**compiling(), **environment},
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


@pytest.fixture(scope="module")
def logits(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """The digest of the tiny model's logits on a backend, in the exact profile."""
    folder = tmp_path_factory.mktemp("tiny")
    ids = folder / "ids.json"
    ids.write_text(json.dumps([[(7 * row + 3 * at) % 500 for at in range(12)] for row in (0, 1)]))
    made = started("-m", "glm5_hal", "make-checkpoint", "tiny", str(folder / "model"))
    assert made.returncode == 0, made.stderr

    def digest(backend: str, **environment: str) -> str:
        out = folder / f"{backend}.safetensors"
        done = started(
            *("-m", "glm5_hal", "logits", str(folder / "model"), "--input-ids", str(ids)),
            *("--out", str(out)),
            GLM5_HAL_BACKEND=backend,
            GLM5_HAL_NUMERICS="exact",
            **environment,
        )
        assert done.returncode == 0, done.stderr
        found = re.search(r"sha256 ([0-9a-f]{64})", done.stdout)
        assert found is not None, done.stdout
        return found[1]

    return digest


@pytest.mark.slow
def test_a_models_logits_are_the_same_bytes_on_every_vendor(logits: Callable[..., str]) -> None:
    wanted = logits("cpu")
    for vendor in VENDORS:
        assert logits(vendor, GLM5_HAL_SIMULATED="1") == wanted, vendor
