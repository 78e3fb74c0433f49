"""Kunlunxin's XPUs, whose torch calls them cuda."""
