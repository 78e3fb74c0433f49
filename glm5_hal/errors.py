"""Every error of the layer, each naming the thing, the expectation and the next step."""

from collections.abc import Iterable


class HalError(Exception):
    """Base of all errors that this package raises on purpose."""


class ContractError(HalError, ValueError):
    """An op was called, or answered, with something the contract does not allow."""


class BackendDefinitionError(HalError, TypeError):
    """A backend's class or data does not fit the contract; raised where it is defined or read."""


class Unsupported(HalError):  # noqa: N818 - the contract's own word
    """A backend does not implement an op.

    Attributes:
        op: name of the op.
        reason: why, in the backend's words.
    """

    def __init__(self, op: str, reason: str) -> None:
        super().__init__(f"{op}: not supported: {reason}")
        self.op = op
        self.reason = reason


class SelectionError(HalError, ValueError):
    """An environment variable or argument asks for something that does not exist."""


class UnknownBackend(SelectionError):  # noqa: N818 - reads as what it is
    """No backend of this name is registered."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        listed = ", ".join(sorted(known)) or "none"
        super().__init__(
            f"unknown backend {name!r}; registered: {listed}. "
            "Set GLM5_HAL_BACKEND to one of these, or install the package that provides it "
            "(entry-point group 'glm5_hal.backends')."
        )


class BackendUnavailable(HalError):  # noqa: N818 - reads as what it is
    """The chosen backend exists but cannot run here."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"backend {name!r} cannot run here: {reason}. "
            "`glm5-hal doctor` shows every backend; unset GLM5_HAL_BACKEND to use the CPU."
        )
        self.name = name
        self.reason = reason
