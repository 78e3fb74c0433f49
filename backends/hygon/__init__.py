"""Hygon's DCUs, whose torch calls them cuda."""
