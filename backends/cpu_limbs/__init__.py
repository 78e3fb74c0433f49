"""The exact profile as a chip without float64 and int64 computes it; see README.md."""
