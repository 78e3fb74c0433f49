"""Portable kernels: one file an op, no vendor names."""
