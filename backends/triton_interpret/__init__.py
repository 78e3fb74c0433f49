"""The Triton kernels in Triton's interpreter, on the CPU: for tests, with no chip at hand."""
