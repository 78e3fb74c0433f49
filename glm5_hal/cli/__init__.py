"""The command line: `glm5-hal`, one module a command or group of commands."""

from glm5_hal.cli.app import app, main

__all__ = ["app", "main"]
