"""The compiled kernels; without a compiler the package installs and does without them."""

from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup

FOLDER = Path("kernels", "cpu")
KERNELS = Pybind11Extension(
    "glm5_hal.kernels.cpu._exact",
    sorted(path.as_posix() for path in FOLDER.glob("*.cpp")),
    depends=sorted(path.as_posix() for path in FOLDER.glob("*.h")),
    cxx_std=17,
    # no contraction into fused multiply-add: every rounding is part of the definition
    extra_compile_args=["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"],
    extra_link_args=["-pthread"],
    optional=True,
)

setup(ext_modules=[KERNELS])
