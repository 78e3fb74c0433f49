"""Kernels are interpreted here; and these tests draw the wild calls of the others."""

import os
import sys
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton
sys.path.append(str(Path(__file__).parents[1] / "ops"))
