"""Moore Threads' GPUs."""
