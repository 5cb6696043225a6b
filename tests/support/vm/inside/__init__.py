"""What runs inside a guest."""
