"""Enflame's GCUs."""
