"""Triton's kernels as compiled to TTIR, executed for all programs of a grid at once."""
