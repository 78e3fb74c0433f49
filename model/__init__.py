"""GLM-5 itself: configuration, layers, cache, checkpoint, generation."""
