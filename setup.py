"""The compiled kernels; without a compiler the package installs and does without them."""

from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup

FOLDER = Path("kernels", "cpu")
POOL = (FOLDER / "pool.cpp").as_posix()


def kernels(name: str, folder: Path) -> Pybind11Extension:
    """The extension made of a folder's sources and what all of them share."""
    sources = {POOL, *(path.as_posix() for path in folder.glob("*.cpp"))}
    return Pybind11Extension(
        name,
        sorted(sources),
        depends=sorted(path.as_posix() for path in FOLDER.rglob("*.h")),
        cxx_std=17,
        # no contraction into fused multiply-add: every rounding is part of the definition
        extra_compile_args=["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"],
        extra_link_args=["-pthread"],
        optional=True,
    )


ParallelCompile(default=0).install()
setup(
    ext_modules=[
        kernels("glm5_hal.kernels.cpu._exact", FOLDER),
        kernels("glm5_hal.kernels.cpu.fast._fast", FOLDER / "fast"),
    ]
)
