"""Errors of a run or a package, as opposed to findings about a backend."""

from glm5_hal.errors import HalError


class ConformanceError(HalError):
    """Base of the suite's own errors."""


class AskedError(ConformanceError):
    """What was asked for does not exist or does not fit: a case, an op, a directory."""


class WaiverError(AskedError):
    """A waivers.yaml that says less, or something else, than a waiver must say."""


class UnusableError(ConformanceError):
    """The suite cannot run here: workers do not start, or nothing was left to run."""


class PackageError(ConformanceError):
    """A result package that cannot be read."""
