"""What can be wrong with a kernel, or in one that runs."""

from glm5_hal.errors import HalError


class _PlacedError(HalError, RuntimeError):
    """An error of a kernel.

    Args:
        message: what is wrong.
        placed: whether the message names the kernel and the line.
    """

    def __init__(self, message: str, *, placed: bool = False) -> None:
        super().__init__(message)
        self.placed = placed


class TtirError(_PlacedError):
    """TTIR that cannot be read or executed here."""


class KernelError(_PlacedError):
    """What a kernel did that no kernel may do: it reads where nothing is, an assertion fails."""
