"""Lets these tests draw the wild calls of the others."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "ops"))
