"""What backends of chips with a torch device and a Triton compiler have in common."""
