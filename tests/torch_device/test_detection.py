"""Eight vendors, and no machine is taken for another's: a table of what processes look like."""

import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from surrounded import Around, namespace

from glm5_hal.backends.torch_triton import device as device_module
from glm5_hal.backends.torch_triton.device import TorchDeviceBackend
from glm5_hal.cli.backends import survey
from glm5_hal.errors import BackendUnavailable
from glm5_hal.plan import resolve
from glm5_hal.registry import aliases, load

VENDORS = (
    *("ascend", "cambricon", "cuda", "enflame"),
    *("hygon", "kunlun", "metax", "moore_threads"),
)


def around(*modules: str, **versions: str) -> Around:
    """A process with modules installed, and with versions that its torch names."""
    attributes = {f"torch.version.{name}": text for name, text in versions.items()}
    return Around(attributes, modules=frozenset(modules))


MACHINES: dict[str, tuple[Around, str, set[str]]] = {
    # what it is: the process, the architecture that its devices name, who may run there
    "no accelerator": (around(), "", set()),
    "NVIDIA": (around(cuda="13.0"), "", {"cuda"}),
    "Ascend": (around("torch_npu"), "", {"ascend"}),
    "Moore Threads": (around("torch_musa", musa="4.3.0"), "", {"moore_threads"}),
    "Hygon": (around(hip="6.3.25"), "gfx936", {"hygon"}),
    "Hygon, with features": (around(hip="6.3.25"), "gfx928:sramecc+:xnack-", {"hygon"}),
    "AMD": (around(hip="6.4"), "gfx942:sramecc+:xnack-", set()),
    "Cambricon": (around("torch_mlu", mlu="3.15"), "", {"cambricon"}),
    "Cambricon, which names no version": (around("torch_mlu"), "", {"cambricon"}),
    "Kunlunxin": (around("torch_xmlir", cuda="11.7"), "", {"kunlun"}),
    "MetaX": (around(maca="3.8.1.0", cuda="11.6"), "", {"metax"}),
    "Enflame": (around("torch_gcu"), "", {"enflame"}),
    "Ascend beside NVIDIA": (around("torch_npu", cuda="13.0"), "", {"ascend", "cuda"}),
    "two plug-ins": (around("torch_musa", "torch_mlu"), "", {"moore_threads", "cambricon"}),
}


def found(name: str) -> type[TorchDeviceBackend]:
    cls = load(name)
    assert issubclass(cls, TorchDeviceBackend)
    return cls


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this process look like another; modules are stand-ins, and triton is there."""
    monkeypatch.setattr(device_module, "missing_triton", lambda: None)

    def become(process: Around, architecture: str = "") -> None:
        there = namespace()
        there.get_device_properties = lambda index: SimpleNamespace(gcnArchName=architecture)
        for module in process.modules:
            monkeypatch.setitem(sys.modules, module, ModuleType(module))
        monkeypatch.setattr(TorchDeviceBackend, "_around", classmethod(lambda cls: process))
        monkeypatch.setattr(TorchDeviceBackend, "_namespace", classmethod(lambda cls: there))
        for name in VENDORS:
            for variable in found(name)._descriptor().variables:
                monkeypatch.delenv(variable.variable, raising=False)

    environment = dict(os.environ)
    yield become
    os.environ.clear()
    os.environ.update(environment)


@pytest.mark.parametrize(("process", "architecture", "may"), MACHINES.values(), ids=MACHINES)
def test_each_machine_is_only_its_own_vendors(
    machine: Any, process: Around, architecture: str, may: set[str]
) -> None:
    machine(process, architecture)
    assert {name for name in VENDORS if found(name).is_available()[0]} == may


@pytest.mark.parametrize("name", VENDORS)
def test_without_the_device_the_reason_names_the_next_step(name: str) -> None:
    with pytest.raises(BackendUnavailable) as error:
        resolve(name)
    assert error.value.reason.count("install") or "built" in error.value.reason


def test_every_vendor_answers_to_its_devices_name() -> None:
    known = aliases()
    for name in VENDORS:
        kind = found(name)._descriptor().device_type
        assert kind == "cuda" or known[kind] == name


def test_a_plug_in_that_nobody_chose_is_not_imported(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(around("torch_musa", "torch_mlu"))
    for module in ("torch_musa", "torch_mlu"):
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setenv("GLM5_HAL_BACKEND", "mlu")
    reports = {report.name: report for report in survey()}
    assert reports["moore_threads"].reason.startswith("torch_musa is installed and not imported")
    assert reports["cambricon"].reason.startswith("importing torch_mlu failed")


def test_each_wrong_setting_is_told_with_its_line(machine: Any) -> None:
    for name in VENDORS:
        about = found(name)._descriptor()
        for variable in about.variables:
            wrong = Around(environment={variable.variable: "nonsense"})
            setting = variable.look(wrong, initialized=False)
            assert setting.blocks
            assert setting.fix == f"export {variable.variable}={variable.accepts[0]}"
