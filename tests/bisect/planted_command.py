"""`glm5-hal` on a machine whose backend has a fault: NAME LAYER, then the arguments."""

import sys

import planted_now

from glm5_hal import registry
from glm5_hal.cli import main

name, layer, *sys.argv[1:] = sys.argv[1:]
planted_now.choose(name, int(layer))
registry.entry_points = planted_now.found  # type: ignore[assignment]
main()
