"""A static audit: kernels are compiled for chips that are not present, and the code is read.

Whole classes of determinism faults (a contracted multiply-add, an approximate division, a floating
atomic, an int8 product lowered through float32) stand in the generated code for everyone to see.
A finding is a requirement with an id; what the audit shows is called *static*, never *verified*.
"""
