"""What a generation took: time, drafts, memory."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from glm5_hal.model.generate import Statistics


@dataclass(frozen=True)
class Rate:
    """Tokens and the seconds they took."""

    tokens: int
    seconds: float

    @property
    def per_second(self) -> float | None:
        """Tokens a second, None where there were none."""
        return self.tokens / self.seconds if self.tokens and self.seconds else None

    def __str__(self) -> str:
        speed = "" if self.per_second is None else f" ({self.per_second:,.1f} tokens/s)"
        return f"{self.tokens} tokens in {self.seconds:.2f} s{speed}"

    def to_dict(self) -> dict[str, float | None]:
        """Plain data, for JSON."""
        return {
            "tokens": self.tokens,
            "seconds": self.seconds,
            "tokens_per_second": self.per_second,
        }


@dataclass(frozen=True)
class Cost:
    """Of one generation.

    Attributes:
        prompt: its tokens, up to every sequence's first new token.
        generation: every further token.
        drafts: what became of them; None without.
        host_bytes: the most memory that the process held; None where nobody counts.
        device_bytes: the most that was allocated on an accelerator; None where nobody counts.
    """

    prompt: Rate
    generation: Rate
    drafts: "Statistics | None"
    host_bytes: int | None
    device_bytes: int | None

    @property
    def acceptance(self) -> float | None:
        """Accepted of the drafted tokens, None where there were none."""
        drafts = self.drafts
        return drafts.accepted / drafts.drafted if drafts and drafts.drafted else None

    def to_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        drafts = self.drafts
        return {
            "prompt": self.prompt.to_dict(),
            "generation": self.generation.to_dict(),
            "speculative": {**vars(drafts), "acceptance": self.acceptance} if drafts else None,
            "peak_memory_bytes": {"host": self.host_bytes, "device": self.device_bytes},
        }

    def lines(self) -> list[str]:
        """For a reader."""
        found = [f"prompt: {self.prompt}", f"generation: {self.generation}"]
        if self.drafts is not None:
            share = "" if self.acceptance is None else f" ({self.acceptance:.1%})"
            counted = f"{self.drafts.accepted} of {self.drafts.drafted} accepted{share}"
            found.append(f"drafts: {counted}, {self.drafts.steps} steps")
        memory = {"host": self.host_bytes, "device": self.device_bytes}
        parts = [f"{where} {size / 2**20:,.0f} MiB" for where, size in memory.items() if size]
        return [*found, f"peak memory: {', '.join(parts) or 'unknown'}"]


def peak_host_bytes() -> int | None:
    """The most memory this process has held."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_device_bytes(device: "torch.device") -> int | None:
    """The most that torch has allocated on this accelerator."""
    import torch

    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None or accelerator.type != device.type:
        return None
    return torch.accelerator.max_memory_allocated(device)
