"""Names for a new backend: what the registry can find and a package can be called."""

import keyword
import re
from dataclasses import dataclass

from glm5_hal.errors import SelectionError
from glm5_hal.registry import aliases, registered

_NAME = re.compile(r"[a-z]([a-z0-9_]*[a-z0-9])?")


@dataclass(frozen=True)
class Names:
    """What one name becomes.

    Attributes:
        backend: as in ``GLM5_HAL_BACKEND``.
    """

    backend: str

    @classmethod
    def checked(cls, name: str) -> "Names":
        """The names of a backend that does not exist yet.

        Raises:
            SelectionError: it is no lower-case identifier, or is taken.
        """
        if not _NAME.fullmatch(name) or keyword.iskeyword(name):
            raise SelectionError(
                f"{name!r} cannot be a backend's name: expected a Python identifier in lower case "
                "that ends in a letter or digit, such as 'acme' or 'acme_x1'"
            )
        for taken in (*registered(), *aliases()):
            if name == taken.replace("-", "_"):
                whose = aliases().get(taken)
                what = f"is an alias of backend {whose!r}" if whose else "is a backend already"
                raise SelectionError(f"{taken!r} {what}; choose another name")
        return cls(name)

    @property
    def package(self) -> str:
        """What is imported."""
        return f"glm5_hal_{self.backend}"

    @property
    def project(self) -> str:
        """What is installed."""
        return f"glm5-hal-{self.backend.replace('_', '-')}"

    @property
    def title(self) -> str:
        """As in the names of classes."""
        return "".join(part.capitalize() for part in self.backend.split("_"))
