"""What backends that a backend.yaml describes have in common, whatever computes their ops."""
