"""Backends: one folder each; the registry imports the chosen one and no other."""
