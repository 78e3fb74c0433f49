"""A vendor's own front end lowers the kernels, with no device, and the result is read.

Where a vendor compiles Triton with a compiler of its own, its front end decides what it takes, and
its documentation says what the rest does not. Both are held against the kernels here. What this
shows is called *static*: a kernel that is accepted has run nowhere.
"""
