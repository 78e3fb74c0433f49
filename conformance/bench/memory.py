"""Memory of this process and of its device, in bytes; None where nobody counts."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_GROUP = Path("/sys/fs/cgroup")


def held() -> int | None:
    """Resident memory of this process now."""
    return _status("VmRSS")


def reset_peak(device: torch.device) -> bool:
    """Begin a new count of the peaks; False where the host's cannot be begun anew."""
    if counted(device):
        torch.accelerator.reset_peak_memory_stats(device)
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def peak() -> int | None:
    """The most resident memory since the last `reset_peak`, or since the start."""
    if (found := _status("VmHWM")) is not None:
        return found
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def device_peak(device: torch.device) -> int | None:
    """The most that torch has held on an accelerator since the last `reset_peak`."""
    return torch.accelerator.max_memory_allocated(device) if counted(device) else None


def device_held(device: torch.device) -> int:
    """What torch holds on an accelerator now; 0 where nobody counts."""
    return torch.accelerator.memory_allocated(device) if counted(device) else 0


def counted(device: torch.device) -> bool:
    """Whether torch counts this device's memory."""
    accelerator = torch.accelerator.current_accelerator()
    return accelerator is not None and accelerator.type == device.type


def free(device: torch.device) -> int | None:
    """What can still be had where the tensors lie."""
    if counted(device):
        torch.accelerator.set_device_index(device.index or 0)
        return int(torch.accelerator.get_memory_info(device)[0])
    return free_host() if device.type == "cpu" else None


def free_host() -> int | None:
    """What can still be had on the host, in the machine and in the process's control group."""
    found = [size for size in (_machine_free(), _group_free()) if size is not None]
    return min(found, default=None)


def _status(name: str) -> int | None:
    """An entry of the process's status, which is in units of 1024 bytes."""
    if not _STATUS.exists():
        return None
    return _kib(_STATUS.read_text(), name)


def _machine_free() -> int | None:
    info = Path("/proc/meminfo")
    return _kib(info.read_text(), "MemAvailable") if info.exists() else None


def _kib(text: str, name: str) -> int | None:
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


@dataclass(frozen=True)
class Taken:
    """Of one run.

    Attributes:
        before: resident memory before anything was loaded: the interpreter and its libraries.
        loaded: resident memory with the weights.
        peak: the most resident memory while the run was timed.
        whole: whether `peak` is of the timed part alone, and not of loading as well.
        device: the most on an accelerator.
    """

    before: int | None
    loaded: int | None
    peak: int | None
    whole: bool
    device: int | None

    @property
    def above(self) -> int | None:
        """The peak above what the process held before loading."""
        return None if self.peak is None or self.before is None else self.peak - self.before


def _group_free() -> int | None:
    """Of a version 2 control group; cached files count as free."""
    limit, used, details = (_GROUP / f"memory.{part}" for part in ("max", "current", "stat"))
    if not (limit.exists() and used.exists() and details.exists()):
        return None
    text = limit.read_text().strip()
    if text == "max":
        return None
    cached = next(
        (
            int(line.split()[1])
            for line in details.read_text().splitlines()
            if line.startswith("inactive_file ")
        ),
        0,
    )
    return int(text) - int(used.read_text()) + cached
