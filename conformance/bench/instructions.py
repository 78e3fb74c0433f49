"""What a processor can do, as far as products care."""

from pathlib import Path

import torch

_INFO = Path("/proc/cpuinfo")
_TOLD = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)


def sets() -> tuple[str, ...]:
    """Instruction sets of the first processor; what torch itself uses where nothing is told."""
    if _INFO.exists():
        for line in _INFO.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                flags = set(value.split())
                return tuple(flag for flag in _TOLD if flag in flags)
    return (torch.backends.cpu.get_cpu_capability(),)
