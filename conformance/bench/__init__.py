"""Benchmarks: how long ops and whole models take, beside a peer and beside what is possible.

Times are compared within one run only. Each side runs in processes of its own, in turns
(A B A B), and the machine's own peaks are measured in the same run. Nothing here judges bits.
"""
