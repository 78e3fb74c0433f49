"""A simulated accelerator: its own memory, streams and late kernels, and a vendor's habits.

What it shows is labelled *simulated*: see README.md.
"""
