"""A vendor's fused ops on its simulated device: plan, memory of the device, results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fused_vendors import VENDORS

from glm5_hal.backends.torch_triton.backend import missing_triton
from glm5_hal.conformance.simulated import build

# needs the extra [triton], which `nox` has; the reason names what is missing
if missing := missing_triton() or build.missing_compiler():
    pytest.skip(missing, allow_module_level=True)

SCRIPT = """
import json, sys
from dataclasses import fields, is_dataclass, replace
from types import SimpleNamespace

import pytest, torch
import fused_inputs as given
from fused_vendors import put_libraries
from glm5_hal import Cache, Weight, ops
from glm5_hal.conformance.reference_backend import reference_runtime
from glm5_hal.runtime import open_runtime

put_libraries(sys.argv[1], pytest.MonkeyPatch())
runtime = open_runtime(None, "fast")
backend = runtime.backend
# the simulated device tells less of itself than torch's own do
backend._namespace().get_device_properties = lambda index: SimpleNamespace(multi_processor_count=4)

def put(value):
    if isinstance(value, torch.Tensor):
        return backend.to_device(value.contiguous())
    if isinstance(value, Cache):
        kept = backend.allocate_cache(value.pages, value.page_size, value.width, value.dtype)
        kept.tensor.copy_(put(value.tensor))
        return kept
    if isinstance(value, Weight):
        return backend.prepare_weight(value.role, value.tensor)
    if is_dataclass(value):
        return replace(value, **{f.name: put(getattr(value, f.name)) for f in fields(value)})
    return value

CASES = {
    "latent_attention": given.attention(), "index_scores": given.index(), "topk": given.scores(40),
    "moe_route": given.route(8), "grouped_linear": given.grouped(),
    "swiglu": (given.randn(5, 24),), "dsa_select": (*given.index(), 70),
}
taken = [fused.op for fused in type(backend)._taken]
for op in taken + ["dsa_select"] * ("topk" in taken and "index_scores" in taken):
    with runtime:
        found = getattr(ops, op)(*map(put, CASES[op]))
    with reference_runtime():
        wanted = getattr(ops, op)(*CASES[op])
    for one, other in zip(*(x if isinstance(x, tuple) else (x,) for x in (found, wanted))):
        assert one.device == backend.device
        torch.testing.assert_close(backend.to_host(one), other, rtol=2**-7, atol=2**-14)
print(json.dumps({"taken": taken, "simulated": runtime.plan.simulated}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("vendor", VENDORS)
def test_a_vendors_fused_ops_on_its_simulated_device(vendor: str) -> None:
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, vendor],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
            "GLM5_HAL_BACKEND": vendor,
            "GLM5_HAL_SIMULATED": "1",
            f"GLM5_HAL_{vendor.upper()}_FUSED": "all",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {"taken": [fused.op for fused in VENDORS[vendor]], "simulated": True}
