"""What backends of chips with nothing but a library in C have in common."""
