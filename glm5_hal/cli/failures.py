"""Exit codes, and which of them an error means."""

import enum


class ExitCode(enum.IntEnum):
    """What the process returns."""

    GOOD = 0
    FAILED = 1
    USAGE = 2
    """What was asked for does not exist or does not fit: option, file, variable, configuration."""
    UNUSABLE = 3
    """The environment cannot run what was asked, or nothing ran."""


class CommandError(Exception):
    """A command cannot do what it was asked; the message is all that the user sees."""

    def __init__(self, message: str, code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.code = code


def exit_code(error: Exception) -> ExitCode | None:
    """The code of an error whose message says everything; None if it needs a traceback."""
    if isinstance(error, CommandError):
        return error.code
    # Only here: these modules import torch, and most errors of usage come before that.
    from glm5_hal.conformance.errors import AskedError, UnusableError
    from glm5_hal.errors import (
        BackendDefinitionError,
        BackendUnavailable,
        HalError,
        SelectionError,
    )
    from glm5_hal.model.checkpoint import CheckpointError
    from glm5_hal.model.config import ConfigError
    from glm5_hal.model.generate import PromptError
    from glm5_hal.model.kv_cache import CacheError
    from glm5_hal.model.ranks import RankError

    usage = (
        *(SelectionError, AskedError, PromptError, RankError),
        *(CacheError, ConfigError, CheckpointError),
    )
    if isinstance(error, BackendUnavailable | BackendDefinitionError | UnusableError):
        return ExitCode.UNUSABLE
    if isinstance(error, usage):
        return ExitCode.USAGE
    return ExitCode.FAILED if isinstance(error, HalError) else None
