"""What a result may depend on besides the code: machine, compilers, environment.

Environment variables are taken by an allow list; host and user names are not recorded.
"""

import fnmatch
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

VARIABLES = (
    "GLM5_HAL_*",
    "OMP_*",
    "KMP_*",
    "GOMP_*",
    "MKL_*",
    "OPENBLAS_*",
    "ONEDNN_*",
    "DNNL_*",
    "ATEN_CPU_CAPABILITY",
    "TORCH_ALLOW_TF32_*",
    "PYTORCH_*ALLOC_CONF",
    "TRITON_*",
    "*_VISIBLE_DEVICES",
    "*_LAUNCH_BLOCKING",
    "*_WORKSPACE_CONFIG",
    "*_TF32_OVERRIDE",
    "*_DETERMINISTIC",
    "*_DEVICE_MAX_CONNECTIONS",
    "MALLOC_*",
    "LD_PRELOAD",
)
"""Variables that can change a bit, as globs. A backend's own names are matched by their endings."""
_SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD", "CREDENTIAL")
_COMPILERS = ("cc", "c++", "gcc", "clang")
_PACKAGES = ("torch", "numpy", "safetensors", "triton", "tokenizers")


@dataclass(frozen=True)
class Machine:
    """Where a run happened.

    Attributes:
        os: kernel and C library.
        cpu: model of the processor.
        cores: logical processors.
        device: the torch device of the backend.
        device_name: what it calls itself.
        compilers: first line of each compiler's own description.
        torch_build: how torch was built.
        packages: versions of the Python packages that matter.
    """

    os: str
    cpu: str
    cores: int
    device: str
    device_name: str
    compilers: dict[str, str]
    torch_build: str
    packages: dict[str, str]

    @classmethod
    def here(cls, device: str, device_name: str) -> "Machine":
        """This machine, with what a worker says of its device."""
        cpu = cpu_model()
        return cls(
            os=platform.platform(),
            cpu=cpu,
            cores=os.cpu_count() or 1,
            device=device,
            device_name=cpu if device_name == "cpu" else device_name,
            compilers=_compilers(),
            torch_build=torch.__config__.show(),
            packages=_packages(),
        )


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables of the allow list that are set."""
    return {
        name: value
        for name, value in sorted(environ.items())
        if any(fnmatch.fnmatchcase(name, glob) for glob in VARIABLES)
        and not any(word in name for word in _SECRET)
    }


def cpu_model() -> str:
    """The processor, as the system names it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _compilers() -> dict[str, str]:
    found = {}
    for name in _COMPILERS:
        if path := shutil.which(name):
            said = subprocess.run(
                [path, "--version"], capture_output=True, text=True, check=False, timeout=30
            )
            found[name] = (said.stdout.strip() or said.stderr.strip()).partition("\n")[0]
    return found


def _packages() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
