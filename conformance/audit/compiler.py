"""Compiling one kernel for one target, without the target."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from glm5_hal import Numerics
from glm5_hal.conformance.audit.targets import Target


class Kernel(Protocol):
    """What is compiled; `glm5_hal.kernels.triton.catalogue` lists them.

    Attributes:
        name: unique.
        op: the op it serves.
        profile: the numeric profile whose rules it must keep.
        function: the kernel.
        signature: argument name to type, ``constexpr`` for compile-time values.
        constexprs: their values.
        options: of the compiler, such as the number of warps.
        aligned: integer arguments that are multiples of 16 where it is launched.
        grid: most programs of one launch along x, y and z. A kernel whose first parameter is
            ``first`` is launched in parts, each told the number of its first program.
        promised: bytes of shared memory that its tile is said to keep to; None: nothing is said.
    """

    @property
    def name(self) -> str: ...
    @property
    def op(self) -> str: ...
    @property
    def profile(self) -> Numerics: ...
    @property
    def function(self) -> Any: ...
    @property
    def signature(self) -> Mapping[str, str]: ...
    @property
    def constexprs(self) -> Mapping[str, Any]: ...
    @property
    def options(self) -> Mapping[str, Any]: ...
    @property
    def aligned(self) -> tuple[str, ...]: ...
    @property
    def grid(self) -> tuple[int, int, int]: ...
    @property
    def promised(self) -> int | None: ...


@dataclass(frozen=True)
class Compiled:
    """What the compiler made.

    Attributes:
        target: for which chip.
        ttir: the kernel before any target is known.
        ttgir: with layouts, as the target's matrix units want them.
        llir: LLVM code.
        assembly: the target's own, as text.
        shared: bytes of shared memory.
        options: as the compiler completed them.
        spills: bytes of memory a thread for what registers do not hold, as the assembler
            reports; None where it does not.
        grid: most programs of one launch.
        promised: bytes of shared memory that the kernel's tile is said to keep to.
    """

    target: Target
    ttir: str
    ttgir: str
    llir: str
    assembly: str
    shared: int
    options: Mapping[str, Any] = field(default_factory=dict)
    spills: int | None = None
    grid: tuple[int, int, int] = (1, 1, 1)
    promised: int | None = None


@dataclass(frozen=True)
class Refused:
    """The compiler does not take the kernel or the target.

    Attributes:
        reason: its first error.
    """

    reason: str


def compile_for(kernel: Kernel, target: Target) -> Compiled | Refused:
    """Compile `kernel` for `target`; needs Triton and no device."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(
        fn=kernel.function,
        signature=dict(kernel.signature),
        constexprs=dict(kernel.constexprs),
        attrs=_alignment(kernel),
    )
    chip = GPUTarget(target.backend, target.arch, target.warp_size)
    thrown: Exception | None = None
    with _stderr() as printed:
        try:
            made = triton.compile(source, target=chip, options=dict(kernel.options))
        except Exception as error:  # whatever a compiler throws is its verdict
            thrown = error
    if thrown is not None:
        return Refused(_first_error(printed, thrown))
    assembly = made.asm.get("ptx") or made.asm["amdgcn"]
    return Compiled(
        target=target,
        ttir=made.asm["ttir"],
        ttgir=made.asm["ttgir"],
        llir=made.asm["llir"],
        assembly=assembly,
        shared=int(made.metadata.shared),
        options=made.metadata._asdict(),
        spills=_spills(assembly, made.asm.get("cubin")),
        grid=kernel.grid,
        promised=kernel.promised,
    )


def _alignment(kernel: Kernel) -> dict[tuple[int, ...], list[list[object]]]:
    """What a launch finds divisible by 16: every tensor's pointer, and some integers."""
    return {
        (place,): [["tt.divisibility", 16]]
        for place, (name, kind) in enumerate(kernel.signature.items())
        if kind.startswith("*") or name in kernel.aligned
    }


def _spills(assembly: str, binary: bytes | None) -> int | None:
    """Bytes of memory a thread that hold what registers do not, as the assembler reports.

    Scalar registers that spill into lanes of vector registers reach no memory and do not count.
    """
    found = re.findall(r"\.private_segment_fixed_size:\s*(\d+)", assembly)
    if found:
        return sum(map(int, found))
    if binary is None:
        return None
    import triton.backends

    (tool,) = Path(triton.backends.__path__[0]).glob("*/bin/cuobjdump")  # the compiler's own
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        done = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        )
    return sum(map(int, re.findall(r"\bSTACK:(\d+)", done.stdout)))


@contextmanager
def _stderr() -> Iterator[list[str]]:
    """Everything that is printed to the process's stderr, which compilers write to directly."""
    lines: list[str] = []
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()


def _first_error(printed: list[str], error: Exception) -> str:
    for line in printed:
        if "error:" in line:
            return line.split("error:", 1)[1].strip()[:200]
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
