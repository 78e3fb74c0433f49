"""Kernels in Triton's language: one file an op, for any chip that a Triton compiler knows.

Each op file holds its kernels and one function a profile, `exact` and `fast`, that launches them:
tensors in, tensors out. Attention's kernels lie in a file a profile beside it. How large the tiles
are, and what the chip can do, stands in the `Target` that every function takes; in the exact
profile it changes no byte. In the fast profile no tile depends on the number of rows, so a row's
bits depend on that row.

Importing a module needs triton; this package does not.
"""
