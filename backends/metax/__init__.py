"""MetaX's GPUs, whose torch calls them cuda."""
