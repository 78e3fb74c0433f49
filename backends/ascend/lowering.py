"""triton-ascend up to linalg, on any CPU: its binaries need CANN, its front end needs nothing.

It stands in the place of the stock triton, so that the two cannot be installed together.
"""

import re
import subprocess
from importlib.metadata import version
from typing import Any

_ARCH = "Ascend910B3"


class TritonAscend:
    """The front end for an Atlas A2, as `glm5_hal.conformance.lowering.front_end` wants one."""

    target = _ARCH
    tiles = "glm5_hal.backends.ascend:tiles.yaml"
    restrictions = "glm5_hal.backends.ascend:restrictions.yaml"

    def version(self) -> str:
        """The compiler's name and version.

        Raises:
            ImportError: it is not installed.
        """
        import triton.backends.ascend.compiler  # noqa: F401 - the stock triton has none

        return f"triton-ascend {version('triton-ascend')}"

    def lower(self, kernel: Any) -> tuple[str, str]:
        """TTIR and linalg of a kernel.

        Args:
            kernel: an entry of `glm5_hal.kernels.triton.catalogue`, or one like it.

        Raises:
            ValueError: the conversion to linalg fails; its first error.
            Exception: whatever the language's own checks raise.
        """
        from triton._C.libtriton import ir
        from triton.backends.ascend.compiler import AscendBackend, make_ttir, ttir_to_linalg
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        chip = GPUTarget("npu", _ARCH, 0)
        backend = AscendBackend(chip)
        options = backend.parse_options(dict(kernel.options))
        context = ir.context()
        ir.load_dialects(context)
        backend.load_dialects(context)
        source = ASTSource(
            fn=kernel.function,
            signature={n: kind for n, kind in kernel.signature.items() if kind != "constexpr"},
            constants=dict(kernel.constexprs),
            attrs=_alignment(kernel),
        )
        module = source.make_ir(
            options, backend.get_codegen_implementation(), backend.get_module_map(), context
        )
        metadata = {"hash": kernel.name, "target": chip, **vars(options)}
        module = make_ttir(module, metadata, options)
        try:
            return str(module), ttir_to_linalg(module, metadata, options, named_ops=True)
        except subprocess.CalledProcessError as error:
            raise ValueError(first_error(error.stderr.decode(errors="replace"))) from error


def _alignment(kernel: Any) -> Any:
    """What a launch finds divisible by 16: every tensor's pointer, and some integers."""
    from triton.backends.ascend.compiler import AscendAttrsDescriptor

    return AscendAttrsDescriptor.from_hints(
        {
            place: 16
            for place, (name, kind) in enumerate(kernel.signature.items())
            if kind.startswith("*") or name in kernel.aligned
        }
    )


def first_error(printed: str) -> str:
    """What the converter says of a kernel that it does not take: an error, or where it crashed."""
    for line in printed.splitlines():
        if "Assertion `" in line:
            place = re.search(r"(\w+\.(?:cpp|h)):\d+:", line)
            crash = "Assertion `" + line.split("Assertion `", 1)[1]
            return f"the converter crashed{f' in {place[1]}' if place else ''}: {crash}"
        if "error:" in line:
            return line.split("error:", 1)[1].strip()
    return "the converter crashed and did not say why"


FRONT_END = TritonAscend()
