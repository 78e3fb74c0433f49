"""What the commands about ONNX need beyond the package's own dependencies."""

import importlib.util

from glm5_hal.cli.failures import CommandError, ExitCode

_NEEDED = {"onnx": "onnx", "ml_dtypes": "ml-dtypes"}


def require(command: str) -> None:
    """Refuse to go on without the packages of the extra.

    Raises:
        CommandError: naming what is missing.
    """
    missing = [shown for name, shown in _NEEDED.items() if importlib.util.find_spec(name) is None]
    if missing:
        are = "are" if len(missing) > 1 else "is"
        raise CommandError(
            f"{command} needs {' and '.join(missing)}, which {are} not installed: "
            'pip install "glm5-hal[onnx]"',
            ExitCode.UNUSABLE,
        )
