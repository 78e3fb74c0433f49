"""Writing a backend: the mark of what is not written yet, and packages to begin with."""

from glm5_hal.porting.unwritten import not_written

__all__ = ["not_written"]
