"""Every protection is needed, and its absence is found: on each vendor's simulated device."""

import json

import pytest

from glm5_hal.backends.torch_triton.backend import missing_triton

# needs the extra [triton], which `nox` has; the reason names what is missing
if missing := missing_triton():
    pytest.skip(missing, allow_module_level=True)

from test_vendors import VENDORS, started


@pytest.mark.parametrize("vendor", VENDORS)
def test_without_a_protection_its_requirement_fails(vendor: str) -> None:
    done = started(
        *("-m", "glm5_hal", "conformance", "protections", "--json"),
        GLM5_HAL_BACKEND=vendor,
        GLM5_HAL_SIMULATED="1",
    )
    found = json.loads(done.stdout)["protections"]
    assert done.returncode == 0, [entry for entry in found if not entry["good"]]
    assert len(found) >= 8
    assert all(entry["caught"] and not entry["broken"] for entry in found)


def test_a_device_that_is_not_simulated_has_none_to_lose() -> None:
    done = started("-m", "glm5_hal", "conformance", "protections", GLM5_HAL_BACKEND="cpu")
    assert done.returncode == 2
    assert "set GLM5_HAL_SIMULATED=1" in done.stderr
