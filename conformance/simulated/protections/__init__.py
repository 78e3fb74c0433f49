"""What keeps a backend right on a chip with habits, taken away one at a time.

Each protection names the requirement that is meant to fail without it. A suite that passes without
a protection on the simulated device of a vendor whose habit asks for it would be too weak, or the
protection idle.
"""

from glm5_hal.conformance.simulated.protections.judging import Finding, examine
from glm5_hal.conformance.simulated.protections.known import PROTECTIONS
from glm5_hal.conformance.simulated.protections.protection import Protection

__all__ = ["PROTECTIONS", "Finding", "Protection", "examine"]
