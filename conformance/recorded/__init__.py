"""Shapes recorded from models, one JSON file a model."""
